"""Small bundles, coded part by part from random low-rank factors, for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydraopt.bundle import CarriedBlob, Manifest, ModuleEntry, TaskEntry
from hydraopt.coding.stream import StreamWriter
from hydraopt.parts import (
    PartsRecord,
    Way,
    quantise_basis,
    quantise_side,
    write_basis,
    write_parts,
)
from hydraopt.types import Array, Basis, Factors, exponent

STEP = 64.0


@dataclass
class Coded:
    """One task's stream and what a reader must get out of it."""

    stream: bytes
    factors: dict[str, Factors] = field(default_factory=dict)


@dataclass
class Parts:
    """The arguments of write_bundle, and the factors expected of each task."""

    manifest: Manifest
    shared: bytes
    streams: list[bytes]
    blobs: list[bytes]
    expected: dict[str, dict[str, Factors]]

    @property
    def args(self) -> tuple[Manifest, bytes, list[bytes], list[bytes]]:
        return self.manifest, self.shared, self.streams, self.blobs


def record(
    b: Array, a: Array, ways: tuple[Way, Way] = (Way.EXPLICIT, Way.EXPLICIT), bases: Any = None
) -> PartsRecord:
    """``b`` (m, k) @ ``a`` (k, n) with each side scaled to STEP steps and rounded."""
    left_basis, right_basis = bases or (None, None)
    left, right = b / np.linalg.norm(b, axis=0), a.T / np.linalg.norm(a, axis=1)
    strength = np.linalg.norm(b, axis=0) * np.linalg.norm(a, axis=1) / STEP**2
    return PartsRecord(
        quantise_side(left * STEP, ways[0], left_basis),
        quantise_side(right * STEP, ways[1], right_basis),
        np.array([exponent(float(x)) for x in strength], np.int64),
    )


def encode_bases(
    modules: Sequence[ModuleEntry], rng: np.random.Generator, q: int = 3
) -> tuple[bytes, list[tuple[Basis, Basis]]]:
    """A shared stream with two random bases a module."""
    writer = StreamWriter()
    bases = []
    for module in modules:
        pair = []
        for length in (module.m, module.n):
            block = quantise_basis(rng.standard_normal((length, min(q, length))) * 8)
            write_basis(writer, block)
            pair.append(block.basis)
        bases.append((pair[0], pair[1]))
    return writer.finish(), bases


def encode_task(
    modules: Sequence[ModuleEntry],
    rng: np.random.Generator,
    bases: Sequence[tuple[Basis, Basis]] | None = None,
    ranks: Mapping[str, int] | None = None,
    scale: float = 0.05,
) -> Coded:
    """A random task over all ``modules``; with bases, the forms go round."""
    writer = StreamWriter()
    coded = Coded(b"")
    ways = [(Way.EXPLICIT, Way.SHARED), (Way.SHARED, Way.SHARED), (Way.PREDICTED, Way.EXPLICIT)]
    for i, module in enumerate(modules):
        k = (ranks or {}).get(module.path, min(2, module.m, module.n))
        if k == 0:
            write_parts(writer, None, bases is not None)
            coded.factors[module.path] = Factors(np.zeros((module.m, 0)), np.zeros((0, module.n)))
            continue
        b = rng.standard_normal((module.m, k)) * scale
        a = rng.standard_normal((k, module.n))
        if bases is None:
            parts = record(b, a)
        else:
            parts = record(b, a, ways[i % 3], bases[i])
        write_parts(writer, parts, bases is not None)
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
    **task: Any,
) -> Parts:
    """A bundle of random tasks over the same modules; ``task`` goes into every TaskEntry."""
    rng = np.random.default_rng(seed)
    modules = modules or tiny_modules()
    stream, bases = encode_bases(modules, rng) if shared else (b"", None)
    coded = {name: encode_task(modules, rng, bases) for name in names}
    entries = tuple(
        TaskEntry(
            name=name,
            config=0,
            content=i,
            numbers=100,
            modules=tuple(range(len(modules))),
            errors=tuple(0.1 * (j + 1) for j in range(len(modules))),
            error=0.2,
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
