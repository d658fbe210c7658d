"""Writes tiny.hydra.safetensors, the bundle that every later version has to read: run once.

    PYTHONPATH=src:. python -m tests.bundle.golden.make

Everything in it follows from integers, so that no random generator has to stay as it is. Run again
only when the format version changes, under a new file name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hydraopt.adapters import RawTensor
from hydraopt.bundle import Manifest, ModuleEntry, TaskEntry, pack_carried, write_bundle
from hydraopt.coding.forms import Way
from hydraopt.coding.records import quantise_basis, write_basis, write_record
from hydraopt.coding.stream import StreamWriter
from hydraopt.linalg.shapes import Array
from tests.bundle.bundles import Parts, record

PATH = Path(__file__).with_name("tiny.hydra.safetensors")
MODULES = (
    ModuleEntry("h.0.q", "linear", 6, 8),
    ModuleEntry("h.0.v", "linear", 5, 8),
    ModuleEntry("conv", "conv", 4, 18, a_tail=(3, 3)),
)
_WAYS = ((Way.EXPLICIT, Way.SHARED), (Way.SHARED, Way.SHARED), (Way.PREDICTED, Way.EXPLICIT))


def table(rows: int, columns: int, seed: int) -> Array:
    """Small integers that look random: the middle digits of a quadratic sequence."""
    i = np.arange(1, rows * columns + 1, dtype=np.int64)
    return ((i * i * (2654435761 + seed) >> 12) % 17 - 8).astype(np.float64).reshape(rows, columns)


def parts() -> Parts:
    """The arguments of write_bundle and the factors that a reader must find."""
    shared = StreamWriter()
    bases = []
    for i, module in enumerate(MODULES):
        pair = [quantise_basis(table(x, 2, i) * 3) for x in (module.m, module.n)]
        for basis in pair:
            write_basis(shared, basis)
        bases.append((pair[0].basis, pair[1].basis))
    expected, streams = {}, []
    for seed, name in enumerate(("de", "fr")):
        writer, expected[name] = StreamWriter(), {}
        for i, module in enumerate(MODULES):
            b, a = table(module.m, 2, seed + 7), table(2, module.n, seed + 9)
            coded = record(b, a, _WAYS[(i + seed) % 3], bases[i])
            write_record(writer, coded, True)
            expected[name][module.path] = coded.factors
        streams.append(writer.finish())
    extras = {
        key: RawTensor.from_numpy(key, table(2, 3, 5).astype(code))
        for key, code in (("head.bias", "<f4"), ("head.same", "<f4"), ("head.weight", "<f2"))
    }
    carried = pack_carried({"fr": extras, "same": {}})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v", "conv"]}
    errors = (0.1, 0.2, 0.0)
    whole = TaskEntry("de", 0, 0, "peft", "org/tiny", 72, "BF16", False, (0, 1, 2), errors, 0.15)
    french = replace(whole, name="fr", content=1, config=1, carried=carried.tasks["fr"])
    configs = (config, {**config, "lora_alpha": 8, "use_rslora": True})
    tasks = (whole, french, replace(whole, name="same"))
    manifest = Manifest(MODULES, tasks, tuple(carried.blobs), configs, {"size": "5%"}, "org/tiny")
    expected["same"] = expected["de"]
    return Parts(manifest, shared.finish(), streams, carried.data, expected)


if __name__ == "__main__":
    print(write_bundle(PATH, *parts().args, library="hydraopt 0.1.0"))
