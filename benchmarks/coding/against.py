"""Errors and times of this tree's bundles against those of another revision, at equal bytes.

    python -m benchmarks.coding against REVISION

Both trees merge the same adapters to the same shares of their fp16 bytes, one after the other on
this machine, each merge in a process of its own whose code is compiled already. Writes
benchmarks/results/coding/against-REVISION.json; a row has the errors that the bundles state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import CODING, ROOT, provenance, write_result

SETS = {
    "examples": "examples/adapters",
    "qwen25coder-code5": "zoo/adapters/qwen25coder-code5",
    "smollm2-cls4": "zoo/adapters/smollm2-cls4",
    "smollm2-tuners5": "zoo/adapters/smollm2-tuners5",
    "gemma3-5x8": "zoo/adapters/gemma3-5x8",
}
SIZES = ("1%", "2%", "3%", "5%", "10%", "20%", "50%")
CODE = """
import json, sys, time
from hydraopt import merge, open_bundle
size, output, *adapters = sys.argv[1:]
merge(adapters, output, size=size)
started = time.perf_counter()
merge(adapters, output, size=size)
seconds = time.perf_counter() - started
errors = [task.error for task in open_bundle(output).manifest.tasks]
print(json.dumps([sum(errors) / len(errors), max(errors), seconds]))
"""
"""The second of two merges is timed: the first one compiles."""


def merged(source: Path, folder: Path, size: str, output: Path) -> dict[str, Any]:
    """Return bytes, errors and seconds of a merge by the code in ``source``."""
    adapters = sorted(str(x) for x in folder.iterdir() if x.is_dir())
    done = subprocess.run(
        [sys.executable, "-c", CODE, size, str(output), *adapters],
        env={**os.environ, "PYTHONPATH": str(source)},
        check=True,
        capture_output=True,
        text=True,
    )
    mean, worst, seconds = json.loads(done.stdout.splitlines()[-1])
    size_of = output.stat().st_size
    return {"bytes": size_of, "mean error": mean, "worst error": worst, "seconds": seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("revision")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    args = parser.parse_args(arguments)
    head = provenance(f"bundles of this tree against those of {args.revision}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        archive = ["git", "-C", str(ROOT), "archive", args.revision, "src"]
        packed = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", work], input=packed, check=True)
        for name in args.sets:
            for size in args.sizes:
                sources = {"before": Path(work) / "src", "after": ROOT / "src"}
                row: dict[str, Any] = {"set": name, "size": size}
                for key, source in sources.items():
                    output = Path(work) / "made.hydra.safetensors"
                    row[key] = merged(source, ROOT / SETS[name], size, output)
                change = row["after"]["mean error"] / row["before"]["mean error"] - 1
                print(f"{name:18} {size:>4} mean error {change:+.2%}", flush=True)
                rows.append(row)
                write_result(CODING, f"against-{args.revision}", head, rows)


if __name__ == "__main__":
    main()
