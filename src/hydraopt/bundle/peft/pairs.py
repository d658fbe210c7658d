"""From a task's factors to the tensors that PEFT stores, for LoRA and for other tuners.

Ranks and scales stay those of the config: a factor of less rank is padded with zeros, and the scale
is taken out of B again. So what is carried beside the factors, and depends on these settings, still
fits them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hydraopt.adapters import PREFIX, RawTensor, factor_stems, parse, tuner_named
from hydraopt.bundle.entries import KeptRanks, ModuleEntry
from hydraopt.bundle.peft.extras import left_to_base
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import dtype_named, rounded
from hydraopt.codec import Array, Factors
from hydraopt.errors import ExportError, explain

_FREE_NUMBERS: Final = 1 << 23
_NUMBERS_PER_BYTE: Final = 512


@dataclass(frozen=True, eq=False)
class Pair:
    """One stored pair, A and B, which holds one module or all groups of one.

    keys: of A and B.  path: what PEFT matches rank patterns and targets with.
    members: (position, module, factors), by position.  slots: of a fused projection, else None.
    """

    keys: tuple[str, str]
    path: str
    members: tuple[tuple[int, ModuleEntry, Factors], ...]
    slots: int | None = None

    @property
    def module(self) -> ModuleEntry:
        """First member; all members have its kind, layout and shape."""
        return self.members[0][1]

    @property
    def groups(self) -> int:
        """Number of groups, or slots, that the two tensors hold."""
        own = self.module.groups if self.module.layout in ("rows", "experts") else 1
        return own if self.slots is None else self.slots

    @property
    def multiple(self) -> int:
        """Divisor that the rank must have, because PEFT divides it among a convolution's groups."""
        grouped = self.module.layout == "rows" and self.module.kind == "conv"
        return self.module.groups if grouped else 1

    @property
    def rank(self) -> int:
        """Smallest rank that PEFT accepts for this pair; at least 1."""
        ranks = [int(factors.A.shape[0]) for _, _, factors in self.members]
        if self.slots is not None:
            return max(sum(ranks), 1)
        return max(*ranks, 1) * self.multiple

    def tensors(self, rank: int, scale: float) -> tuple[Array, Array]:
        """Return (A, B), float64, as PEFT stores them for that rank and scale; padded with zeros.

        ``scale * B A`` is the task's dW. A fused projection becomes one block-structured LoRA.
        """
        module, first = self.module, self.members[0][2]
        m, n = first.B.shape[0], first.A.shape[1]
        if self.slots is not None:
            a, b, row = np.zeros((rank, n)), np.zeros((self.slots * m, rank)), 0
            for position, _, factors in self.members:
                k = factors.A.shape[0]
                own = balanced(factors, scale)
                a[row : row + k] = own.A
                b[position * m : (position + 1) * m, row : row + k] = own.B
                row += k
            return a, b
        groups = self.groups
        each = rank if module.layout == "experts" else rank // groups
        if len(self.members) == groups == 1 and first.A.shape[0] == each:
            own = balanced(first, scale)
            a, b = own.A, own.B[None]
        else:
            a, b = np.zeros((groups, each, n)), np.zeros((groups, m, each))
            for position, _, factors in self.members:
                own, k = balanced(factors, scale), factors.A.shape[0]
                a[position, :k], b[position, :, :k] = own.A, own.B
            a = a.reshape(groups * each, n)
        if module.layout == "experts":
            # The rank varies slowest in the columns of B: group g has columns g, g + groups, ...
            return a, b.transpose(1, 2, 0).reshape(m, each * groups)
        b = b.reshape(groups * m, each)
        if module.kind == "conv":
            inputs = n // math.prod(module.a_tail)
            a = a.reshape(-1, inputs, *module.a_tail)
            b = b.reshape(*b.shape, *(1 for _ in module.a_tail))
        return a, b


def check_room(task: TaskAdapter, ranks: Iterable[tuple[Pair, int]]) -> None:
    """Raise ExportError if pairs of these ranks would be far larger than the bundle warrants.

    Ranks and groups of a damaged or hostile file are only numbers; the tensors would be made.
    """
    numbers = 0
    for pair, rank in ranks:
        module, groups = pair.module, pair.groups
        numbers += rank * (groups * module.m + module.n * (1 if pair.slots else groups))
    check_numbers(task, numbers)


def check_numbers(task: TaskAdapter, numbers: int) -> None:
    """Check the number of values in an adapter as :func:`check_room` does."""
    most = _FREE_NUMBERS + _NUMBERS_PER_BYTE * task.contents.size
    if numbers > most:
        raise ExportError(
            explain(
                "the adapter would be far larger than its bundle warrants",
                adapter=task.name,
                file=task.bundle.path,
                got=f"{numbers:,} numbers",
                expected=f"at most {most:,}",
                do="Export without one rank for all modules, or merge the originals again",
            )
        )


def balanced(factors: Factors, scale: float = 1.0) -> Factors:
    """Divide the product by ``scale``, and balance the norms of B's columns with those of A's rows.

    Parts are scaled by powers of two, which is exact, so norms agree to a factor of 2. It keeps
    both sides in the middle of a narrow range: fp16 holds neither 10^5 nor 10^-8. A part whose norm
    overflows a double stays as it is.
    """
    if not scale:  # what a scale of 0 multiplies does not count
        return Factors(np.zeros(factors.B.shape), np.zeros(factors.A.shape))
    # No copy where none is needed: an export's memory is bounded by the bytes of its bundle.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        b, a = factors.B if scale == 1 else factors.B / scale, factors.A
        nb, na = np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1)
        ratio = np.divide(nb, na, out=np.ones_like(nb), where=(na > 0) & (nb > 0))
        octaves = np.rint(0.5 * np.log2(ratio))
    shift = np.where(np.isfinite(octaves), octaves, 0).astype(np.int32)
    return Factors(np.ldexp(b, -shift), np.ldexp(a, shift[:, None]))


def pairs_of(task: TaskAdapter, factors: Mapping[str, Factors]) -> list[Pair]:
    """Return a task's pairs, in order of their keys; ExportError for what PEFT cannot hold."""
    grouped: dict[str, list[tuple[int, ModuleEntry, Factors]]] = {}
    for path, module in task.modules.items():
        position = module.group
        if module.layout == "rows" and module.kind != "conv":
            position = int(path.rpartition("::")[2])
        grouped.setdefault(task.key(path, "A"), []).append((position, module, factors[path]))
    pairs = []
    for key, members in sorted(grouped.items()):
        members.sort(key=lambda x: x[0])
        module = members[0][1]
        if module.layout == "factor":
            raise ExportError(
                explain(
                    "a factor of a product is no low-rank change of its own",
                    adapter=task.name,
                    module=module.path,
                    do="Export it in the format that it came in",
                )
            )
        parsed = parse(key)
        path = parsed.settings_path if parsed else module.stem
        fused = module.layout == "rows" and module.kind != "conv"
        slots = _slots(task, module, members[-1][0]) if fused else None
        pair = Pair((key, task.key(module.path, "B")), path, tuple(members), slots)
        _check_members(task, pair)
        pairs.append(pair)
    return pairs


def _check_members(task: TaskAdapter, pair: Pair) -> None:
    """Raise ExportError unless the members of a pair differ in their position alone."""
    seen = set[int]()
    for position, module, _ in pair.members:
        alike = _shape_of(module) == _shape_of(pair.module)
        if not alike or not position < pair.groups or position in seen:
            raise ExportError(
                explain(
                    "a module does not fit the others of its pair",
                    adapter=task.name,
                    module=module.path,
                    do="Merge the originals again",
                )
            )
        seen.add(position)


def _shape_of(module: ModuleEntry) -> tuple[object, ...]:
    return module.kind, module.m, module.n, module.layout, module.groups, module.a_tail


def _slots(task: TaskAdapter, module: ModuleEntry, last: int) -> int:
    """Return the number of slots of the fused projection, including the untouched ones."""
    enabled: Any = task.config.get("enable_lora")
    if isinstance(enabled, list) and len(enabled) > last:
        return len(enabled)
    raise ExportError(
        explain(
            "PEFT has to know which parts of a fused projection an adapter changes",
            adapter=task.name,
            module=module.stem,
            got=f"{module.groups} groups, enable_lora {enabled}",
            expected="enable_lora in the adapter's config, such as [true, false, true]",
            do="The file did not say; add enable_lora to its config and merge again",
        )
    )


@dataclass(frozen=True)
class _StoredFactors:
    """Storage plan for the pair of one module.

    names: names of B, of A and of the tuner's other tensors.
    rank, scale: values in the config.
    """

    module: ModuleEntry
    names: tuple[str, ...]
    rank: int
    scale: float


def tuner_adapter(
    task: TaskAdapter, dtype: object, uniform_rank: bool
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Return config and tensors of a task whose config is of another tuner than LoRA.

    dtype, uniform_rank: as in :func:`hydraopt.bundle.peft.folder.export_peft`; one rank for all
    modules is refused, as it would be another config.

    Raises ExportError for what the tuner cannot hold, and for settings that make no sense.
    """
    kind = dtype_named(dtype, task.entry.dtype)
    if uniform_rank:
        name = tuner_named(task.config)
        raise _cannot(task, f"one rank for all modules is for LoRA, and this is {name}")
    tensors: dict[str, RawTensor] = {}
    left = left_to_base(task, task.bundle.base)
    extras = {key: tensor for key, tensor in task.extras.items() if key not in left}
    factors = task.factors()
    for stored in _planned(task, factors, extras):
        parts = (*_padded(factors, stored), np.ones((stored.rank, 1)))
        for key, values in zip(stored.names, parts, strict=False):
            tensors[key] = rounded(key, values, kind, task.name)
    config = {key: value for key, value in task.config.items() if key != "hydraopt"}
    if not config.get("base_model_name_or_path") and task.base_model:
        config["base_model_name_or_path"] = task.base_model
    return config, {**tensors, **extras}


def check_tuner(task: TaskAdapter) -> None:
    """Raise ExportError as :func:`tuner_adapter` does, except for numbers that overflow a dtype."""
    _planned(task, task.factors(), task.described.keys() - left_to_base(task, None))


def _planned(
    task: TaskAdapter, factors: Mapping[str, Factors], extras: Collection[str]
) -> list[_StoredFactors]:
    """Plan how each module of a task is stored.

    extras: names of the task's other tensors.
    """
    tuner = tuner_named(task.config)
    ranks = task.kept_ranks
    if not task.modules:
        planned = []
    elif tuner not in ("ADALORA", "LOHA", "LOKR"):
        raise _cannot(task, f"{tuner} has no low-rank modules", next(iter(task.modules)))
    elif ranks is None:
        raise _cannot(task, "the bundle does not state the ranks of its modules")
    else:
        planned = list(_adalora(task, ranks) if tuner == "ADALORA" else _factors(task, ranks))
    numbers, names = 0, set(extras)
    for stored in planned:
        module, k = stored.module, factors[stored.module.path].A.shape[0]
        if k > stored.rank:
            what = f"a module has {k} parts, and its config says rank {stored.rank}"
            raise _cannot(task, what, module.path)
        numbers += stored.rank * (module.m + module.n + len(stored.names) - 2)
        for name in stored.names:
            if name in names:
                raise _cannot(task, f"two tensors would have the name {name!r}")
            names.add(name)
    check_numbers(task, numbers)
    return planned


def _adalora(task: TaskAdapter, ranks: KeptRanks) -> Iterator[_StoredFactors]:
    for path, module in task.modules.items():
        if module.layout != "plain" or module.kind != "linear":
            raise _cannot(task, f"AdaLoRA has no {module.kind} of layout {module.layout}", path)
        inner = _inner(task, path)
        names = tuple(f"{PREFIX}{inner}.{part}" for part in ("lora_B", "lora_A", "lora_E"))
        yield _StoredFactors(module, names, *ranks.of(path))


def _factors(task: TaskAdapter, ranks: KeptRanks) -> Iterator[_StoredFactors]:
    ends = factor_stems(task.config)
    scaled: set[str] = set()
    for path, module in sorted(task.modules.items(), key=lambda x: (x[1].stem, x[1].group)):
        factor = path.rpartition("::")[2].partition(".")[0]
        if module.layout != "factor" or factor not in ends:
            raise _cannot(task, "a module is no factor of a product", path)
        inner = _inner(task, path)
        rank, scale = ranks.of(path)
        if module.stem in scaled:
            scale = 1.0
        scaled.add(module.stem)
        names = tuple(f"{PREFIX}{inner}.{end}" for end in ends[factor])
        yield _StoredFactors(module, names, rank, scale)


def _inner(task: TaskAdapter, path: str) -> str:
    """Return the path used in the tensors' names, with "base_layer" of nested wrappers."""
    key = parse(task.key(path, "A"))
    if key is None:
        raise _cannot(task, "the name of a tensor is none of PEFT's", path)
    return key.inner


def _padded(factors: Mapping[str, Factors], stored: _StoredFactors) -> tuple[Array, Array]:
    """Return (B, A) over the scale, (m, rank) and (rank, n), padded with zeros."""
    module = stored.module
    b, a = np.zeros((module.m, stored.rank)), np.zeros((stored.rank, module.n))
    pair = balanced(factors[module.path], stored.scale)
    k = pair.A.shape[0]
    b[:, :k], a[:k] = pair.B, pair.A
    return b, a


def _cannot(task: TaskAdapter, what: str, module: str | None = None) -> ExportError:
    return ExportError(
        explain(
            f"cannot be written as a PEFT adapter: {what}",
            adapter=task.name,
            module=module,
            do="Merge it with --lossless, or leave it out",
        )
    )
