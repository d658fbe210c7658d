"""Writes layouts/NAME: a bundle of one task for each layout and kind, and the adapter it must give.

    PYTHONPATH=src:. python -m tests.bundle.golden.make_layouts

Run again only when docs/reference/adapters.md changes. Readers in other languages are held to these
files; everything in them follows from integers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydraopt.adapters import RawTensor
from hydraopt.adapters.peftconfig import resolved_config
from hydraopt.bundle.carried import pack_carried
from hydraopt.bundle.peft.folder import CONFIG, WEIGHTS, export_peft
from hydraopt.bundle.ranks import KeptRanks
from hydraopt.bundle.spec import Manifest, ModuleEntry, TaskEntry
from hydraopt.bundle.tensors import TensorEntry
from hydraopt.bundle.writer import pack_bundle
from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.dense import DenseRecord, as_matrix, quantise_rest, write_dense
from hydraopt.coding.forms import Way
from hydraopt.coding.records import write_record
from hydraopt.coding.side import quantise_basis, write_basis
from hydraopt.collection.opening import open_bundle
from hydraopt.linalg.start import Drawn, KnownStart
from tests.bundle.bundles import record
from tests.bundle.golden.make import table

FOLDER = Path(__file__).with_name("layouts")
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v"]}
Q, V = ModuleEntry("h.0.q", "linear", 6, 8), ModuleEntry("h.0.v", "linear", 5, 8)
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Case:
    """A task. ranks: parts of each module. ways: of both sides, over bases if any is not explicit.
    drawn: initial A of each module, or None. tensors: coded ones, with their numbers in steps of
    2^(-10). entry: more of the task's row."""

    modules: Sequence[ModuleEntry]
    config: Mapping[str, Any] = field(default_factory=lambda: dict(LORA))
    ranks: Sequence[int] = (2, 2, 2, 2)
    ways: tuple[Way, Way] = (Way.EXPLICIT, Way.EXPLICIT)
    drawn: Sequence[Drawn | None] = (None,) * 4
    extras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tensors: Sequence[TensorEntry] = ()
    entry: Mapping[str, Any] = field(default_factory=dict)


def _with(**more: Any) -> dict[str, Any]:
    return {**LORA, **more}


def _factors(*sizes: tuple[int, int], kronecker: bool) -> tuple[ModuleEntry, ...]:
    ends = [f".{m}x{n}" if kronecker else "" for m, n in sizes]
    return tuple(
        ModuleEntry(f"h.0.q::w{i + 1}{end}", "linear", m, n, "factor", i, 2)
        for i, ((m, n), end) in enumerate(zip(sizes, ends, strict=True))
    )


_FUSED = tuple(
    ModuleEntry(f"h.0.qkv::{slot}", "linear", 4, 8, "rows", g, 2) for g, slot in enumerate((0, 2))
)
_GROUPED = tuple(ModuleEntry(f"conv::{g}", "conv", 3, 18, "rows", g, 2, (3, 3)) for g in range(2))
_EXPERTS = tuple(
    ModuleEntry(f"h.0.experts::{g}", "linear", 4, 6, "experts", g, 3) for g in range(3)
)
_BIAS = f"{PREFIX}h.0.q.lora_B.bias"
_MAGNITUDE = f"{PREFIX}h.0.q.lora_magnitude_vector"
_ADALORA = {
    "peft_type": "ADALORA", "r": 8, "lora_alpha": 4, "init_r": 4, "target_r": 2,
    "target_modules": ["q", "v"],
}  # fmt: skip
_LOHA = {"peft_type": "LOHA", "r": 3, "alpha": 6, "target_modules": ["q"]}
_SHARED = (Way.SHARED, Way.PREDICTED)
_START = KnownStart(42, 1000)

CASES: dict[str, Case] = {
    "linear": Case((Q, V)),
    "linear-f32": Case((Q, V), entry={"dtype": "F32"}),
    "linear-bf16": Case((Q, V), entry={"dtype": "BF16"}),
    "ranks": Case((Q, V), _with(use_rslora=True, rank_pattern={"v": 3}), (1, 3)),
    "nothing": Case((Q, V), ranks=(0, 2)),
    "shared": Case((Q, V), ways=_SHARED),
    "started": Case(
        (Q, V, ModuleEntry("h.1.q", "linear", 6, 8)), ranks=(2, 2, 3), entry={"start": _START},
        drawn=(Drawn(_START, 620, 2), None, Drawn(_START, 0, 4)),
    ),
    "names": Case(
        (Q, V),
        _with(target_modules="all-linear"),
        entry={
            "keys": {
                ("h.0.q", half): f"{PREFIX}h.0.base_layer.q.lora_{half}.weight" for half in "AB"
            }
        },
    ),
    "targets": Case((Q, V), _with(target_modules=["v"], layers_to_transform=[1]), (1, 2)),
    "embedding": Case(
        (ModuleEntry("embed", "embedding", 6, 10),), _with(target_modules=["embed"])
    ),
    "conv": Case(
        (ModuleEntry("conv", "conv", 4, 18, a_tail=(3, 3)),), _with(target_modules=["conv"])
    ),
    "conv-grouped": Case(_GROUPED, _with(target_modules=["conv"]), (2, 1)),
    "fused": Case(
        _FUSED, _with(target_modules=["qkv"], enable_lora=[True, False, True]), (2, 1),
        entry={"format": "loralib"},
    ),
    "experts": Case(
        _EXPERTS, _with(target_modules=[], target_parameters=["experts.up"]), (2, 0, 1)
    ),
    "pissa": Case(
        (Q, V), _with(init_lora_weights="pissa", r=4, lora_alpha=6, rank_pattern={"v": 5}), (2, 4),
        entry={"ranks": KeptRanks(4, 1.5, {V.path: (5, 1.2)})},
    ),
    "dora": Case(
        (Q,), _with(use_dora=True), extras={_MAGNITUDE: (6, 1)},
        entry={"extra_kinds": {_MAGNITUDE: "dora_magnitude"}},
    ),
    "bias": Case(
        (Q,), _with(lora_bias=True), extras={_BIAS: (6, 1)},
        entry={"extra_kinds": {_BIAS: "lora_bias"}, "bias_scales": {_BIAS: 1.75}},
    ),
    "coded": Case(
        (Q,), _with(modules_to_save=["head"]),
        tensors=(
            TensorEntry(f"{PREFIX}head.weight", "F16", (3, 8)),
            TensorEntry(f"{PREFIX}head.bias", "BF16", (3,)),
        ),
    ),
    "kohya": Case(
        (Q, V), _with(hydraopt={"format": "kohya"}, target_modules=["h.0.q", "h.0.v"]),
        entry={"format": "kohya"},
    ),
    "mlx": Case(
        (Q, V), _with(hydraopt={"format": "mlx"}, target_modules=["q", "v"]),
        entry={"format": "mlx", "dtype": "BF16"},
    ),
    "adalora": Case((Q, V), _ADALORA, (4, 2), entry={"ranks": KeptRanks(4, 4 / (4 + 1e-5))}),
    "loha": Case(
        _factors((6, 8), (6, 8), kronecker=False), _LOHA, (3, 2),
        entry={"ranks": KeptRanks(3, 2.0)},
    ),
    "lokr": Case(
        _factors((2, 4), (3, 2), kronecker=True), {**_LOHA, "peft_type": "LOKR"}, (2, 2),
        entry={"ranks": KeptRanks(3, 2.0)},
    ),
    "ia3": Case(
        (), {"peft_type": "IA3", "target_modules": ["q"], "feedforward_modules": []},
        tensors=(TensorEntry(f"{PREFIX}h.0.q.ia3_l", "F32", (6, 1), "tuner_ones"),),
    ),
}  # fmt: skip


def write(name: str, path: Path) -> None:
    """The bundle of a case."""
    case = CASES[name]
    has_bases = case.ways != (Way.EXPLICIT, Way.EXPLICIT)
    shared, stream = ChunkWriter(), ChunkWriter()
    of_modules = zip(case.modules, case.ranks, case.drawn, strict=False)
    for seed, (module, rank, drawn) in enumerate(of_modules):
        bases = None
        if has_bases:
            pair = [quantise_basis(table(x, 3, seed) * 3) for x in (module.m, module.n)]
            for basis in pair:
                write_basis(shared, basis)
            shared.end_record(sum(basis.block.levels.size for basis in pair))
            bases = pair[0].basis, pair[1].basis
        coded = None
        if rank:
            b, a = table(module.m, rank, seed + 7) / 64, table(rank, module.n, seed + 9)
            coded = record(b, a, case.ways, bases, drawn=drawn)
        write_record(stream, coded, has_bases or any(case.drawn))
        stream.end_record(coded.numbers if coded else 0)
    for seed, tensor in enumerate(case.tensors):
        x = as_matrix(table(tensor.numbers, 1, seed + 5).reshape(tensor.shape))
        write_dense(stream, DenseRecord(rest=quantise_rest(x * 9, -256 * 7)))
        stream.end_record(tensor.numbers)
    made = {
        key: RawTensor.from_numpy(key, table(*size, 3).astype("<f2").ravel())
        for key, size in case.extras.items()
    }
    carried = pack_carried({name: made} if made else {})
    indices, errors = range(len(case.modules)), (0.0,) * len(case.modules)
    entry = TaskEntry(
        name, 0, 0, base_model="org/tiny", numbers=100, dtype="F16", modules=tuple(indices),
        errors=errors, carried=carried.tasks.get(name, ()), tensors=tuple(range(len(case.tensors))),
        tensor_errors=(0.0,) * len(case.tensors),
    )  # fmt: skip
    entry = replace(entry, **case.entry)
    config = case.config
    if config["peft_type"] == "LORA":
        stems = {x.stem for x in case.modules}
        config = resolved_config(config, stems, entry.ranks is not None)
    manifest = Manifest(
        tuple(case.modules), (entry,), tuple(carried.blobs), (config,), {}, "org/tiny",
        tuple(case.tensors),
    )  # fmt: skip
    data = shared.finish(), [stream.finish()], carried.data
    pack_bundle(manifest, *data).write(path, library="hydraopt 0.1.0")


def main(say: Callable[[str], None] = print) -> None:
    """Write all folders again."""
    for name in CASES:
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(name, folder / "bundle.hydra.safetensors")
        export_peft(open_bundle(folder / "bundle.hydra.safetensors")[name], folder / "adapter")
        for extra in (folder / "adapter").iterdir():
            if extra.name not in (CONFIG, WEIGHTS):
                extra.unlink()
        say(f"{name}: {sum(x.stat().st_size for x in folder.rglob('*') if x.is_file()):,} bytes")


if __name__ == "__main__":
    main()
