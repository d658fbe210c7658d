"""vlora-dev: build the subspace at each k, save, rebuild. Runs inside its own environment.

    python -m benchmarks.rivals.vlora WORK K,K,... ADAPTER_FOLDER...

Prints a JSON line for each k: with the tensors as they are in the files; if that fails, the failure
and the same with fp32 copies. Each is saved as vlora writes it (fp32), packed by its
``save_quantized`` (nf4), and with every tensor cast to fp16. Rebuilt factors as in lorashare.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rivals.inside import folder_bytes, halve
from benchmarks.rivals.tool import Tool

__all__ = ["tool"]


def rebuild(saved: Path, folder: Path) -> None:
    """Every adapter of a saved space, in float32."""
    from safetensors.torch import save_file
    from vlora import SharedSubspace

    folder.mkdir(parents=True, exist_ok=True)
    space = SharedSubspace.load(saved)
    for values in (space.components_a, space.components_b, space.means_a, space.means_b):
        values.update({key: x.float() for key, x in values.items()})
    for name, task in space.tasks.items():
        for loadings in (task.loadings_a, task.loadings_b):
            loadings.update({key: x.float() for key, x in loadings.items()})
        weights = space.reconstruct(name)
        tensors = {}
        for side, values in (("A", weights.lora_a), ("B", weights.lora_b)):
            for layer, x in values.items():
                key = f"base_model.model.{layer}.lora_{side}.weight"
                tensors[key] = x.float().contiguous()
        save_file(tensors, str(folder / f"{name}.safetensors"))


def floats(adapter: Any) -> Any:
    """vlora's LoRAWeights with the tensors in float32."""
    from vlora import LoRAWeights

    lora_a = {key: x.float() for key, x in adapter.lora_a.items()}
    lora_b = {key: x.float() for key, x in adapter.lora_b.items()}
    return LoRAWeights(adapter.layer_names, lora_a, lora_b, adapter.rank, adapter.metadata)


def made(work: Path, adapters: list[Any], names: list[str], k: int) -> Iterator[dict[str, Any]]:
    """The lines of one k."""
    from vlora import SharedSubspace

    started = time.monotonic()
    space = SharedSubspace.from_adapters(adapters, task_ids=names, num_components=k)
    places = {kind: work / f"{k}-{kind}" for kind in ("fp32", "nf4", "fp16")}
    space.save(places["fp32"] / "saved")
    seconds = round(time.monotonic() - started, 3)
    space.save_quantized(places["nf4"] / "saved")
    halve(places["fp32"] / "saved", places["fp16"] / "saved")
    for kind, place in places.items():
        rebuild(place / "saved", place / "rebuilt")
        row = {"k": k, "dtype": kind, "bytes": folder_bytes(place / "saved")}
        yield row | {"rebuilt": str(place / "rebuilt"), "seconds": seconds}


def main() -> None:
    from vlora import load_adapter

    work = Path(sys.argv[1])
    names = [Path(folder).name for folder in sys.argv[3:]]
    given = [load_adapter(folder) for folder in sys.argv[3:]]
    copies: list[Any] | None = None
    for k in map(int, sys.argv[2].split(",")):
        try:
            for row in made(work, copies or given, names, k):
                print(json.dumps(row | {"fp32_copies": copies is not None}), flush=True)
        except Exception as error:
            failed = {"k": k, "failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(failed | {"fp32_copies": copies is not None}), flush=True)
            if copies is None:
                copies = [floats(adapter) for adapter in given]
                for row in made(work, copies, names, k):
                    print(json.dumps(row | {"fp32_copies": True}), flush=True)


def tool(name: str) -> type[Tool]:
    """The tensors as they are in the files, which may be refused, or "vlora fp32", copies."""
    from vlora import SharedSubspace, load_adapter, save_adapter

    copies = name == "vlora fp32"

    class Vlora(Tool):
        def merge(self) -> None:
            adapters = [load_adapter(folder) for folder in self.folders]
            adapters = [floats(adapter) for adapter in adapters] if copies else adapters
            SharedSubspace.from_adapters(adapters, task_ids=self.names).save(self.saved)

        def open(self) -> None:
            self.space = SharedSubspace.load(self.saved)

        def task(self) -> None:
            self.space.reconstruct(self.names[0])

        def export(self) -> None:
            save_adapter(self.space.reconstruct(self.names[0]), self.exported)

    return Vlora


if __name__ == "__main__":
    main()
