"""lorashare's compress and save, inside its own environment. Prints a JSON line a run.

python child_lorashare.py REPEATS K WORK ADAPTER_FOLDER...
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lorashare import SHAREModel


def main() -> None:
    repeats, k, work = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    adapters = {Path(folder).name: folder for folder in sys.argv[4:]}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        SHAREModel.from_adapters(adapters, num_components=k, device="cpu").save_pretrained(
            str(work / "lorashare")
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"run": "lorashare", "wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
