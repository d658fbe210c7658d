"""lorashare: compress at each k, save, rebuild every adapter. Runs inside its own environment.

    python -m benchmarks.rivals.lorashare WORK K,K,... ADAPTER_FOLDER...

Prints a JSON line for each k, in fp32 as lorashare writes it and with every tensor cast to fp16.
Rebuilt factors go to WORK/K-DTYPE/rebuilt/TASK.safetensors under PEFT's keys, scale not folded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.rivals.inside import folder_bytes, halve
from benchmarks.rivals.tool import Tool

__all__ = ["tool"]


def rebuild(checkpoint: Path, folder: Path) -> None:
    """Every adapter of a checkpoint, in float32."""
    from lorashare import SHAREModel
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model = SHAREModel.from_pretrained(str(checkpoint))
    # Loadings and components must have one dtype to be multiplied; fp32 loses nothing of fp16.
    model.components = {key: x.float() for key, x in model.components.items()}
    for name, loadings in model.all_loadings.items():
        model.all_loadings[name] = {key: x.float() for key, x in loadings.items()}
        tensors = {key: x.float().contiguous() for key, x in model.reconstruct(name).items()}
        save_file(tensors, str(folder / f"{name}.safetensors"))


def main() -> None:
    from lorashare import SHAREModel

    work = Path(sys.argv[1])
    adapters = {Path(folder).name: folder for folder in sys.argv[3:]}
    for k in map(int, sys.argv[2].split(",")):
        started = time.monotonic()
        try:
            model = SHAREModel.from_adapters(adapters, num_components=k, device="cpu")
            full, half = work / f"{k}-fp32", work / f"{k}-fp16"
            model.save_pretrained(str(full / "checkpoint"))
            seconds = time.monotonic() - started
            halve(full / "checkpoint", half / "checkpoint")
            for place, dtype in ((full, "fp32"), (half, "fp16")):
                rebuild(place / "checkpoint", place / "rebuilt")
                row = {"k": k, "dtype": dtype, "bytes": folder_bytes(place / "checkpoint")}
                row |= {"rebuilt": str(place / "rebuilt"), "seconds": round(seconds, 3)}
                print(json.dumps(row), flush=True)
        except Exception as error:
            print(json.dumps({"k": k, "failed": f"{type(error).__name__}: {error}"}), flush=True)


def tool(name: str) -> type[Tool]:
    """Timed at its default, k = 32."""
    from lorashare import SHAREModel

    class Lorashare(Tool):
        def merge(self) -> None:
            adapters = dict(zip(self.names, map(str, self.folders), strict=True))
            SHAREModel.from_adapters(adapters, device="cpu").save_pretrained(str(self.saved))

        def open(self) -> None:
            self.model = SHAREModel.from_pretrained(str(self.saved))

        def task(self) -> None:
            self.model.reconstruct(self.names[0])

        def export(self) -> None:
            self.model.reconstruct(self.names[0], str(self.exported))

    return Lorashare


if __name__ == "__main__":
    main()
