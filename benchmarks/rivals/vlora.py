"""Runs inside vlora-dev's own environment: build the subspace at each k, save, rebuild.

    python peer_vlora.py WORK K,K,... ADAPTER_FOLDER...

Prints a JSON line for each k: with the tensors as they are in the files; if that fails, the failure
and the same with fp32 copies. Each is saved as vlora writes it (fp32), packed by its
``save_quantized`` (nf4), and with every tensor cast to fp16. Rebuilt factors as in
peer_lorashare.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from vlora import LoRAWeights, SharedSubspace, load_adapter


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rebuild(saved: Path, folder: Path) -> None:
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


def floats(adapter: LoRAWeights) -> LoRAWeights:
    lora_a = {key: x.float() for key, x in adapter.lora_a.items()}
    lora_b = {key: x.float() for key, x in adapter.lora_b.items()}
    return LoRAWeights(adapter.layer_names, lora_a, lora_b, adapter.rank, adapter.metadata)


def rows(work: Path, adapters: list[LoRAWeights], names: list[str], k: int) -> Iterator[Any]:
    started = time.monotonic()
    space = SharedSubspace.from_adapters(adapters, task_ids=names, num_components=k)
    places = {kind: work / f"{k}-{kind}" for kind in ("fp32", "nf4", "fp16")}
    space.save(places["fp32"] / "saved")
    seconds = round(time.monotonic() - started, 3)
    space.save_quantized(places["nf4"] / "saved")
    shutil.copytree(places["fp32"] / "saved", places["fp16"] / "saved", dirs_exist_ok=True)
    for path in (places["fp16"] / "saved").rglob("*.safetensors"):
        save_file({key: x.half() for key, x in load_file(str(path)).items()}, str(path))
    for kind, place in places.items():
        rebuild(place / "saved", place / "rebuilt")
        row = {"k": k, "dtype": kind, "bytes": folder_bytes(place / "saved")}
        yield row | {"rebuilt": str(place / "rebuilt"), "seconds": seconds}


def main() -> None:
    work = Path(sys.argv[1])
    names = [Path(folder).name for folder in sys.argv[3:]]
    given = [load_adapter(folder) for folder in sys.argv[3:]]
    copies: list[LoRAWeights] | None = None
    for k in map(int, sys.argv[2].split(",")):
        try:
            for row in rows(work, copies or given, names, k):
                print(json.dumps(row | {"fp32_copies": copies is not None}), flush=True)
        except Exception as error:
            failed = {"k": k, "failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(failed | {"fp32_copies": copies is not None}), flush=True)
            if copies is None:
                copies = [floats(adapter) for adapter in given]
                for row in rows(work, copies, names, k):
                    print(json.dumps(row | {"fp32_copies": True}), flush=True)


if __name__ == "__main__":
    main()
