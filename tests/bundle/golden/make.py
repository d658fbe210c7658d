"""Writes second.hydra.safetensors, a bundle of the format as it is now.

    PYTHONPATH=src:. python -m tests.bundle.golden.make

Everything in it follows from integers, so that no random generator has to stay as it is. Run again
only when the format changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hydraopt.adapters import RawTensor
from hydraopt.bundle import Harm, Manifest, ModuleEntry, TaskEntry, TensorEntry, pack_carried
from hydraopt.codec import (
    Array,
    ChunkWriter,
    DenseRecord,
    PartsRecord,
    Way,
    write_basis,
    write_dense,
    write_record,
)
from hydraopt.codec.records import quantise_rest
from hydraopt.codec.sides import quantise_basis, quantise_side
from tests.bundle.bundles import Parts, record

SECOND = Path(__file__).with_name("second.hydra.safetensors")
TENSORS = (
    TensorEntry("head.weight", "F32", (3, 24), "saved"),
    TensorEntry("ia3_l", "F16", (8,), "tuner_ones"),
    TensorEntry("rows", "BF16", (40, 2), "token_rows"),
)
MODULES = (
    ModuleEntry("h.0.q", "linear", 6, 8),
    ModuleEntry("h.0.v", "linear", 5, 8),
    ModuleEntry("conv", "conv", 4, 18, a_tail=(3, 3)),
)
CHUNK = 40
"""Bytes that close a chunk: few, so that streams of a few hundred bytes have several."""
HARM = Harm(changed=3, answers=48, likely=0.0471, kl=0.0123, held_out=True)
_WAYS = ((Way.EXPLICIT, Way.SHARED), (Way.SHARED, Way.SHARED), (Way.PREDICTED, Way.EXPLICIT))


def table(rows: int, columns: int, seed: int) -> Array:
    """Small integers that look random: the middle digits of a quadratic sequence."""
    i = np.arange(1, rows * columns + 1, dtype=np.int64)
    return ((i * i * (2654435761 + seed) >> 12) % 17 - 8).astype(np.float64).reshape(rows, columns)


def dense_records() -> tuple[list[DenseRecord], list[DenseRecord]]:
    """What is shared of each tensor, and one task's records: each with another choice of parts."""
    commons = [DenseRecord(rest=quantise_rest(table(24, 3, 4) * 0.5, -256)), *[DenseRecord()] * 2]
    left, right = (quantise_side(table(x, 1, 3) * 2, Way.EXPLICIT, None) for x in (24, 3))
    both = PartsRecord(left, right, np.array([-64], np.int64))
    head = DenseRecord(both, quantise_rest(table(24, 3, 6) * 0.3, -325), common=True)
    offset = DenseRecord(rest=quantise_rest(table(8, 1, 7) + 90, 0, None, np.array([90], np.int64)))
    some = np.array([0, 7, 39], np.int64)
    return commons, [head, offset, DenseRecord(rest=quantise_rest(table(3, 2, 8), 43, some))]


def parts() -> Parts:
    """Return the arguments of ``pack_bundle`` and the factors that a reader must find."""
    shared = ChunkWriter(CHUNK)
    bases = []
    for i, module in enumerate(MODULES):
        pair = [quantise_basis(table(x, 2, i) * 3) for x in (module.m, module.n)]
        for basis in pair:
            write_basis(shared, basis)
        shared.end_record(sum(basis.block.levels.size for basis in pair))
        bases.append((pair[0].basis, pair[1].basis))
    commons, own = dense_records()
    for entry, common in zip(TENSORS, commons, strict=True):
        write_dense(shared, common)
        shared.end_record(common.numbers(entry.numbers, bounded=True))
    expected, streams = {}, []
    for seed, name in enumerate(("de", "fr")):
        writer, expected[name] = ChunkWriter(CHUNK), {}
        for i, module in enumerate(MODULES):
            b, a = table(module.m, 2, seed + 7), table(2, module.n, seed + 9)
            coded = record(b, a, _WAYS[(i + seed) % 3], bases[i])
            write_record(writer, coded, True)
            writer.end_record(coded.numbers)
            expected[name][module.path] = coded.factors
        for entry, tensor in zip(TENSORS, own, strict=True) if name == "fr" else ():
            write_dense(writer, tensor)
            writer.end_record(tensor.numbers(entry.numbers, bounded=False))
        streams.append(writer.finish())
    extras = {
        key: RawTensor.from_numpy(key, table(2, 3, 5).astype(code))
        for key, code in (("head.bias", "<f4"), ("head.same", "<f4"), ("head.other", "<f2"))
    }
    carried = pack_carried({"fr": extras, "same": {}})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v", "conv"]}
    errors = (0.1, 0.2, 0.0)
    whole = TaskEntry("de", 0, 0, "peft", "org/tiny", 72, "BF16", False, (0, 1, 2), errors, 0.15)
    french = replace(whole, name="fr", content=1, config=1, carried=carried.tasks["fr"])
    french = replace(french, tensors=(0, 1, 2), tensor_errors=(0.1, 0.0, 0.25))
    french = replace(french, harm=HARM)
    configs = (config, {**config, "lora_alpha": 8, "use_rslora": True})
    tasks = (whole, french, replace(whole, name="same"))
    about = {"size": "5%"}, "org/tiny", TENSORS
    manifest = Manifest(MODULES, tasks, tuple(carried.blobs), configs, *about)
    expected["same"] = expected["de"]
    return Parts(manifest, shared.finish(), streams, carried.data, expected)


if __name__ == "__main__":
    print(parts().write(SECOND, library="hydraopt 0.1.0"))
