"""Tasks that are low-rank changes of linear layers, in the form of other tools' files."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hydraopt.adapters import (
    ExtraKind,
    Format,
    Kind,
    Layout,
    LowRankModule,
    RawTensor,
    TensorFile,
    changed_base,
    changing,
    other_tuner,
    read_again,
    spell,
)
from hydraopt.bundle import (
    Base,
    ModuleEntry,
    Pair,
    TaskAdapter,
    balanced,
    check_numbers,
    dtype_named,
    holds,
    is_of_base,
    layer_below,
    weights_at_hand,
)
from hydraopt.codec import Array, Factors
from hydraopt.errors import ExportError, explain

LINEAR: Final[tuple[Kind, ...]] = ("linear",)
_PLAIN: Final[tuple[Layout, ...]] = ("plain",)

# What an extra is, in words; see hydraopt.adapters.model.ExtraKind.
_KINDS: Final = {
    "dora_magnitude": "a DoRA magnitude",
    "lora_bias": "a bias of lora_B",
    "bias": "a trained bias",
    "token_rows": "trained rows of an embedding",
    "saved": "a tensor that is saved whole",
    "tuner": "a tensor of another tuner than LoRA",
    "tuner_ones": "a tensor of another tuner than LoRA",
    "exact": "a tensor of another tuner than LoRA",
}


ALORA: Final = "alora_invocation_tokens"
"""PEFT's setting for a LoRA that acts only after these tokens."""


def plain_pairs(
    task: TaskAdapter,
    engine: str,
    settings: Collection[str] = (),
    base: Base = None,
    layouts: Collection[Layout] = _PLAIN,
) -> list[Pair]:
    """Return the task's pairs by module path: A (r, n) and B (m, r) of linear layers, scale inside.

    engine: who is to load them, for messages. Names are those of the paths, whatever the original
    file called them.  settings: such as change what pairs mean and have a place in the format.
    base: as in :func:`refuse_all_but`.
    layouts: "plain", and "experts" for formats that hold all experts of a layer in one pair.

    Raises ExportError, naming adapter and module, for everything else a task may hold: tensors that
    are not low-rank (biases, saved modules, DoRA, token rows), embeddings, convolutions, fused or
    stacked layers, two pairs on one layer, and settings that change what the pairs mean.
    """
    refuse_all_but(task, engine, layouts=layouts, settings=settings, base=base)
    factors = task.factors()
    grouped: dict[str, list[tuple[int, ModuleEntry, Factors]]] = {}
    for path, module in sorted(task.modules.items()):
        stem = module.stem if module.layout == "experts" else path
        grouped.setdefault(stem, []).append((module.group, module, factors[path]))
    return [
        Pair((spell(path, "A"), spell(path, "B")), path, tuple(sorted(members, key=lambda x: x[0])))
        for path, members in grouped.items()
    ]


def refuse_all_but(
    task: TaskAdapter,
    engine: str,
    kinds: Collection[Kind] = LINEAR,
    extras: Collection[ExtraKind] = (),
    layouts: Collection[Layout] = _PLAIN,
    settings: Collection[str] = (),
    base: Base = None,
) -> None:
    """Raise ExportError, naming adapter and module, for what is none of these.

    kinds: of modules that are well, unless fused, stacked or wrapped twice.  extras: of tensors.
    layouts: of modules.  settings: those of :func:`refuse_settings` that are well.
    base: the base model's folder, or tensors of it: the weight of a layer below a pair is well if
        it is the base's.
    Settings that change what the pairs mean are refused as well, and an adapter without modules.
    """
    refuse_settings(task, engine, settings)
    others = changing(task.extra_kinds, task.config)
    for key, kind in others.items():
        if kind not in extras and layer_below(task, key) is not None:
            _refuse_below(task, engine, key, base)
        elif kind not in extras:
            raise refused(task, engine, _KINDS[kind], key)
    for path, module in task.modules.items():
        problem = _problem(module, kinds, layouts)
        if problem is not None:
            raise refused(task, engine, problem, path)
    if not task.modules and not others:
        raise refused(task, engine, "an adapter without any module")


def _refuse_below(task: TaskAdapter, engine: str, key: str, base: Base) -> None:
    weights = weights_at_hand(base)
    if weights and is_of_base(task, key, weights):
        return
    other = "; it is not that of the base given" if weights else ""
    raise ExportError(
        explain(
            f"{engine} cannot hold the weight of the layer below a pair{other}",
            adapter=task.name,
            module=key,
            do="Leave it out of the adapter's file and merge again, or export with --format peft"
            if weights
            else "It may be the base's own: give the base's folder, with weights, where the format "
            "takes a base, or leave the tensor out of the adapter's file and merge again",
        )
    )


def refuse_settings(task: TaskAdapter, engine: str, but: Collection[str] = ()) -> None:
    """Raise ExportError for settings by which PEFT computes something else than W + B A.

    but: names of settings that the format has a place for.
    """
    tuner = other_tuner(task.config)
    if tuner is not None:
        raise refused(task, engine, f"a task of PEFT's {tuner}")
    start = changed_base(task.config)
    if start is not None:
        raise refused(task, engine, f"init_lora_weights {start!r}, which also changes the base")
    for setting, what in (
        (ALORA, "aLoRA, which acts only after its invocation tokens"),
        ("layer_replication", "layer_replication, which is another base model"),
    ):
        if setting not in but and task.config.get(setting):
            raise refused(task, engine, what)


def refused(task: TaskAdapter, engine: str, what: str, module: str | None = None) -> ExportError:
    """Return the error for something an engine has no place for."""
    kinds = {x.layout for x in task.modules.values()} | set(task.extra_kinds.values())
    # PEFT has no match for what LyCORIS adds to kohya files.
    lycoris = task.entry.format == "kohya" and bool(kinds & {"factor", "tuner", "tuner_ones"})
    return ExportError(
        explain(
            f"{engine} cannot hold {what}",
            adapter=task.name,
            module=module,
            do=f"Export it with --format {'kohya' if lycoris else 'peft'}, which holds more",
        )
    )


def _problem(
    module: ModuleEntry, kinds: Collection[Kind], layouts: Collection[Layout]
) -> str | None:
    """Return why a module is not a plain layer of one of these kinds; None if it is."""
    if module.kind not in kinds:
        return f"a low-rank change of {'an' if module.kind[0] == 'e' else 'a'} {module.kind}"
    if module.layout == "factor" and "factor" not in layouts:
        return "a factor of a product"
    if module.layout not in layouts:
        return "layers that are fused or stacked in one tensor"
    if "base_layer" in module.stem.split(".") and module.layout != "experts":
        return "two pairs on one layer"
    return None


@dataclass(frozen=True)
class Stored:
    """Module in the form of a file: ``dW = scale * b @ a``.

    a (r, n), b (m, r): float64, r at least 1.
    dtypes: dtypes of a and b in the file.
    """

    module: ModuleEntry
    a: Array
    b: Array
    scale: float
    dtypes: tuple[str, str]

    @property
    def path(self) -> str:
        return self.module.path

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def folded(self) -> Stored:
        """Return a copy with the scale inside b, rounded to float32 as readers round it.

        A product that b's dtype cannot hold exactly is stored as F32, so nothing is lost.
        """
        if self.scale == 1:
            return self
        with np.errstate(over="ignore"):
            b = (self.b * self.scale).astype(np.float32).astype(np.float64)
        dtype = self.dtypes[1] if holds(b, self.dtypes[1]) else "F32"
        return replace(self, b=b, scale=1.0, dtypes=(self.dtypes[0], dtype))

    def padded(self, rank: int) -> Stored:
        """Return a copy padded with zeros up to ``rank``, which change no product."""
        more = rank - self.rank
        a, b = np.pad(self.a, ((0, more), (0, 0))), np.pad(self.b, ((0, 0), (0, more)))
        return replace(self, a=a, b=b)

    def kernels(self) -> tuple[Array, Array]:
        """Return (a, b) with the axes of a convolution: (r, in, kh, kw) and (m, r, 1, 1)."""
        tail = self.module.a_tail
        a = self.a.reshape(self.rank, self.module.n // math.prod(tail), *tail)
        return a, self.b.reshape(*self.b.shape, *(1 for _ in tail))


def stored_modules(task: TaskAdapter, dtype: str) -> list[Stored]:
    """Return the task's modules by path. Rule out fused or stacked layers before.

    dtype: as in :func:`hydraopt.export.export_peft`. With "same", a lossless task has the numbers
    of the original in the original's types, and its scales; all else has scale 1. F64, in which
    none of these tools computes, becomes F32, to which our own reader rounds it. Raises ExportError
    for modules that would be far larger than the bundle warrants.
    """
    named = _computed(dtype_named(dtype, task.entry.dtype))
    if task.original is not None and dtype == "same":
        return [_as_it_was(module) for _, module in sorted(task.original.modules.items())]
    factors, result = task.factors(), []
    least = ((max(factors[path].A.shape[0], 1), x) for path, x in task.modules.items())
    check_numbers(task, sum(rank * (x.m + x.n) for rank, x in least))
    for path, module in sorted(task.modules.items()):
        own = balanced(factors[path])
        # No file holds rank 0: a module that was left without parts gets one of zeros.
        result.append(
            Stored(module, own.A, own.B, 1.0, (named, named)).padded(max(own.A.shape[0], 1))
        )
    return result


def check_padded(task: TaskAdapter, modules: Iterable[Stored], rank: int) -> None:
    """Raise ExportError if ``modules`` of that rank would be far larger than the bundle is."""
    check_numbers(task, rank * sum(x.module.m + x.module.n for x in modules))


def kept_file(
    task: TaskAdapter, file_format: Format, dtype: str
) -> tuple[Mapping[str, RawTensor], Mapping[str, str]] | None:
    """Return (tensors, metadata) of a lossless task of that format, which is written as it was.

    None for any other, for another dtype than "same", and where the caller of the merge gave an
    alpha that the file does not hold.
    """
    if task.original is None or task.entry.format != file_format or dtype != "same":
        return None
    origin = task.config.get("hydraopt")
    given = origin.get("metadata") if isinstance(origin, Mapping) else None
    texts = given.items() if isinstance(given, Mapping) else ()
    metadata = {k: x for k, x in texts if isinstance(x, str)} | dict(task.entry.metadata)
    file = TensorFile(task.bundle.path, task.tensors, metadata)
    again = {x.path: x.scale for x in read_again(file_format, file, task.config).modules}
    if again != {path: x.scale for path, x in task.original.modules.items()}:
        return None
    # Hashes of a file's bytes hold for that file alone.
    return task.tensors, {k: x for k, x in metadata.items() if not k.startswith("sshs_")}


def _as_it_was(module: LowRankModule) -> Stored:
    b, a = (x.astype(np.float64) for x in replace(module, scale=1.0).factors())
    dtypes = _computed(module.a.dtype), _computed(module.b.dtype)
    if module.between is not None and not holds(a, dtypes[0]):
        dtypes = ("F32", dtypes[1])  # AdaLoRA's values times A: products, which underflow 16 bits
    return Stored(ModuleEntry.of(module), a, b, module.scale, dtypes)


def _computed(dtype: str) -> str:
    # bfloat16 holds every 8-bit float, and no tool computes in these or in 64 bits.
    return {"F64": "F32", "F8_E4M3": "BF16", "F8_E5M2": "BF16"}.get(dtype, dtype)
