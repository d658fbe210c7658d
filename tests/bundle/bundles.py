"""Small bundles, coded part by part from random low-rank factors, for the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hydraopt.adapters import Adapter
from hydraopt.bundle import (
    Bundle,
    Manifest,
    ModuleEntry,
    TaskEntry,
    default_key,
    kept_ranks,
    pack_bundle,
    pack_carried,
    stored_config,
)
from hydraopt.bundle.entries import CarriedBlob
from hydraopt.codec import (
    Array,
    Basis,
    ChunkWriter,
    Drawn,
    Factors,
    KnownStart,
    PartsRecord,
    Way,
    relative_error,
    thin,
    write_basis,
    write_record,
)
from hydraopt.codec.sides import quantise_basis, quantise_side, quantise_started
from hydraopt.codec.tables import exponents, power

STEP = 64.0


@dataclass
class Coded:
    """One task's stream and what a reader must get out of it."""

    stream: bytes
    factors: dict[str, Factors] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    error: float = 0.0


@dataclass
class Parts:
    """The arguments of ``pack_bundle``, and the factors expected of each task."""

    manifest: Manifest
    shared: bytes
    streams: list[bytes]
    blobs: list[bytes]
    expected: dict[str, dict[str, Factors]]

    @property
    def args(self) -> tuple[Manifest, bytes, list[bytes], list[bytes]]:
        return self.manifest, self.shared, self.streams, self.blobs

    def write(self, path: Path, library: str | None = None) -> int:
        """Write the bundle and return its size in bytes."""
        return pack_bundle(*self.args).write(path, library)


def record(
    b: Array,
    a: Array,
    ways: tuple[Way, Way] = (Way.EXPLICIT, Way.EXPLICIT),
    bases: Any = None,
    step: float = STEP,
    drawn: Drawn | None = None,
) -> PartsRecord:
    """``b`` (m, k) @ ``a`` (k, n) with each side scaled to ``step`` steps and rounded.

    drawn: initial A of a started right side, which gets as many own directions as parts.
    """
    left_basis, right_basis = bases or (None, None)
    sizes = np.linalg.norm(a, axis=1)
    strength = np.linalg.norm(b, axis=0) * sizes / step**2
    grid = exponents(strength)
    # The left side makes up for the coarse grid of the exponents.
    left = b * sizes / step / power(grid)
    right = a.T / sizes * step
    rights = (
        quantise_side(right, ways[1], right_basis)
        if drawn is None
        else quantise_started(right, drawn, np.ones(len(a)), np.full(len(a), step))
    )
    return PartsRecord(quantise_side(left, ways[0], left_basis), rights, grid)


def encode_bases(
    modules: Sequence[ModuleEntry], rng: np.random.Generator, q: int = 3
) -> tuple[bytes, list[tuple[Basis, Basis]]]:
    """A shared stream with two random bases a module."""
    writer = ChunkWriter()
    bases = []
    for module in modules:
        pair = []
        for length in (module.m, module.n):
            block = quantise_basis(rng.standard_normal((length, min(q, length))) * 8)
            write_basis(writer, block)
            pair.append(block.basis)
        writer.end_record(sum(basis.vectors.size for basis in pair))
        bases.append((pair[0], pair[1]))
    return writer.finish(), bases


def encode_task(
    modules: Sequence[ModuleEntry],
    rng: np.random.Generator,
    bases: Sequence[tuple[Basis, Basis]] | None = None,
    ranks: Mapping[str, int] | None = None,
    scale: float = 0.05,
    start: KnownStart | None = None,
) -> Coded:
    """A random task over all ``modules``; with bases, the forms go round.

    start: every second module is written over its initial A instead.
    """
    writer = ChunkWriter()
    states_mode = bases is not None or start is not None
    coded = Coded(b"")
    ways = [(Way.EXPLICIT, Way.SHARED), (Way.SHARED, Way.SHARED), (Way.PREDICTED, Way.EXPLICIT)]
    for i, module in enumerate(modules):
        k = (ranks or {}).get(module.path, min(2, module.m, module.n))
        if k == 0:
            write_record(writer, None, states_mode)
            writer.end_record(0)
            coded.factors[module.path] = Factors(np.zeros((module.m, 0)), np.zeros((0, module.n)))
            continue
        b = rng.standard_normal((module.m, k)) * scale
        a = rng.standard_normal((k, module.n))
        if start is not None and i % 2 == 0:
            parts = record(b, a, drawn=Drawn(start, 700 * i, 2))
        else:
            parts = record(b, a) if bases is None else record(b, a, ways[i % 3], bases[i])
        write_record(writer, parts, states_mode)
        writer.end_record(parts.numbers)
        coded.factors[module.path] = parts.factors
    coded.stream = writer.finish()
    return coded


def tiny_modules(count: int = 3, m: int = 6, n: int = 8) -> tuple[ModuleEntry, ...]:
    return tuple(ModuleEntry(f"h.{i}.q", "linear", m + i, n + i) for i in range(count))


def tiny(
    names: Sequence[str] = ("de", "en", "fr"),
    *,
    shared: bool = True,
    modules: tuple[ModuleEntry, ...] | None = None,
    blobs: Sequence[CarriedBlob] = (),
    data: Sequence[bytes] = (),
    seed: int = 0,
    start: KnownStart | None = None,
    **task: Any,
) -> Parts:
    """A bundle of random tasks over the same modules; ``task`` goes into every TaskEntry.

    start: of every task.
    """
    rng = np.random.default_rng(seed)
    modules = modules or tiny_modules()
    stream, bases = encode_bases(modules, rng) if shared else (b"", None)
    coded = {name: encode_task(modules, rng, bases, start=start) for name in names}
    entries = tuple(
        TaskEntry(
            name=name,
            config=0,
            content=i,
            numbers=100,
            modules=tuple(range(len(modules))),
            errors=tuple(0.1 * (j + 1) for j in range(len(modules))),
            error=0.2,
            start=start,
            **task,
        )
        for i, name in enumerate(names)
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q"]}
    manifest = Manifest(modules, entries, tuple(blobs), (config,), {"method": "test"}, "org/tiny")
    return Parts(
        manifest,
        stream,
        [coded[name].stream for name in names],
        list(data),
        {name: coded[name].factors for name in names},
    )


def bundle_of(adapters: Sequence[Adapter], *, lossless: bool = False, step: float = 4096) -> Parts:
    """A small merge: every adapter in the private form, its exact SVD rounded to ``step`` steps.

    Modules whose initial A is known are written over it.
    """
    entries = {x.path: ModuleEntry.of(x) for a in adapters for x in a.modules.values()}
    modules = tuple(entries[path] for path in sorted(entries))
    held = {a.name: a.tensors if lossless else a.extras for a in adapters}
    carried = pack_carried(held)
    tasks, streams, expected = [], [], {}
    for adapter in adapters:
        coded = Coded(b"") if lossless else _encode_adapter(adapter, modules, step)
        present = tuple(i for i, x in enumerate(modules) if x.path in adapter.modules)
        expected[adapter.name] = coded.factors
        tasks.append(
            TaskEntry(
                adapter.name,
                len(tasks),
                None if lossless else len(streams),
                adapter.format,
                adapter.base_model,
                adapter.numbers,
                next(iter(adapter.modules.values())).a.dtype,
                lossless,
                present,
                tuple(0.0 if lossless else coded.errors[modules[i].path] for i in present),
                0.0 if lossless else coded.error,
                carried.tasks[adapter.name],
                _odd_keys(adapter, entries),
                _bias_scales(adapter),
                {
                    key: kind
                    for key, kind in adapter.extra_kinds.items()
                    if key in held[adapter.name]
                },
                tuple(note.text for note in adapter.notes),
                ranks=None if lossless else kept_ranks(adapter),
                start=None if lossless else _start(adapter),
            )
        )
        if not lossless:
            streams.append(coded.stream)
    configs = tuple(a.config if lossless else stored_config(a) for a in adapters)
    manifest = Manifest(modules, tuple(tasks), tuple(carried.blobs), configs)
    return Parts(manifest, b"", streams, carried.data, expected)


def remade(
    bundle: Bundle,
    target: Path,
    recipe: Mapping[str, Any] | None = None,
    /,
    **changes: Mapping[str, Any],
) -> Path:
    """The bundle written again, with changes to the entries of tasks by their names, and another
    recipe if one is given."""
    manifest = bundle.manifest
    if recipe is not None:
        manifest = dataclasses.replace(manifest, recipe=dict(recipe))
    tasks = tuple(dataclasses.replace(x, **changes.get(x.name, {})) for x in manifest.tasks)
    held: dict[str, list[bytes]] = {"task": [], "carried": []}
    for name in bundle.tensor_bytes:
        if "/" in name:
            held[name.partition("/")[0]].append(bundle.read(name))
    changed = dataclasses.replace(manifest, tasks=tasks)
    pack_bundle(changed, bundle.read("shared"), held["task"], held["carried"]).write(target)
    return target


def _encode_adapter(adapter: Adapter, modules: Sequence[ModuleEntry], step: float) -> Coded:
    writer, coded = ChunkWriter(), Coded(b"")
    wrong, whole = 0.0, 0.0
    for module in modules:
        if module.path not in adapter.modules:
            continue
        b, a = (x.astype(np.float64) for x in adapter.modules[module.path].factors())
        svd = thin(b, a)
        found = Factors(np.zeros((module.m, 0)), np.zeros((0, module.n)))
        drawn = adapter.modules[module.path].initial
        parts = record(svd.U * svd.s, svd.V.T, step=step, drawn=drawn) if svd.s.size else None
        write_record(writer, parts, _start(adapter) is not None)
        writer.end_record(parts.numbers if parts else 0)
        coded.factors[module.path] = found = parts.factors if parts else found
        error = relative_error(Factors(b, a), found)
        coded.errors[module.path] = error
        wrong, whole = wrong + error**2 * svd.energy, whole + svd.energy
    coded.error = float(np.sqrt(wrong / whole)) if whole else 0.0
    coded.stream = writer.finish()
    return coded


def _start(adapter: Adapter) -> KnownStart | None:
    initial = [x.initial for x in adapter.modules.values() if x.initial is not None]
    return initial[0].start if initial else None


def _odd_keys(adapter: Adapter, entries: Mapping[str, ModuleEntry]) -> dict[tuple[str, str], str]:
    return {
        (path, side): key
        for (path, side), key in adapter.peft_keys.items()
        if key != default_key(entries[path], "A" if side == "A" else "B")
    }


def _bias_scales(adapter: Adapter) -> dict[str, float]:
    scales = {x.b.name: x.scale for x in adapter.modules.values()}
    biases = [key for key, kind in adapter.extra_kinds.items() if kind == "lora_bias"]
    return {key: scales[key.removesuffix("bias") + "weight"] for key in biases}
