"""Trained tensors that are no low-rank products: which are coded, and as what."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.adapters import (
    PREFIX,
    Adapter,
    BaseTensors,
    RawTensor,
    changing,
    extra_kind,
    names_adapter,
    parse,
    peft_name,
    tuner_named,
)
from hydraopt.bundle import DENSE_DTYPES, TensorEntry, checksum, matching_tensor, reference_of
from hydraopt.codec import Array, as_matrix, matrix_shape
from hydraopt.errors import AdapterFormatError, NumericalError, UsageError, explain
from hydraopt.notes import listed


def check_returnable(adapter: Adapter, *, lossless: bool) -> None:
    """Raise AdapterFormatError, naming adapter and module or tensor, for what cannot be exported.

    lossless: the tensors are kept as they are; NumericalError for NaN and infinity among them,
    which what measures the bundle later would stop at.
    """
    for module in adapter.modules.values():
        fused = module.layout == "rows" and module.kind != "conv"
        if fused and not isinstance(adapter.config.get("enable_lora"), list):
            raise AdapterFormatError(
                explain(
                    "the slots of a fused projection are not stated",
                    adapter=adapter.name,
                    file=adapter.source,
                    module=module.path,
                    got=f"{module.groups} groups",
                    do='Put an adapter_config.json beside the file, such as {"enable_lora": '
                    "[true, false, true]} for q and v of three",
                )
            )
    if adapter.format == "loralib":
        # These come back as PEFT folders, in which such names mean something else.
        for key in adapter.extras:
            if parse(PREFIX + key) or extra_kind(PREFIX + key, "none", ()) != "saved":
                raise AdapterFormatError(
                    explain(
                        f"tensor {key[:200]!r} beside loralib's has a name of another method",
                        adapter=adapter.name,
                        file=adapter.source,
                        do="Leave it out of the file, or rename it",
                    )
                )
    _check_biases(adapter)
    if adapter.format == "loralib" or (adapter.format == "peft" and not lossless):
        _check_distinct(adapter)
    if lossless:
        adapter.check_finite()
    elif adapter.format == "diffusers" and adapter.extras:
        for path in adapter.modules:
            if ":" not in path and "." not in path:
                raise AdapterFormatError(
                    explain(
                        "tensors beside modules that have no component",
                        adapter=adapter.name,
                        file=adapter.source,
                        module=path,
                        got=next(iter(adapter.extras)),
                        do="Merge it with --lossless, or leave out the other tensors",
                    )
                )


def bias_scales(adapter: Adapter) -> dict[str, float]:
    """Return the scale of the module that each ``lora_bias`` tensor belongs to, by its key."""
    owner = {x.b.name.removesuffix(".weight") + ".bias": x.scale for x in adapter.modules.values()}
    return {
        key: owner[key]
        for key, kind in adapter.extra_kinds.items()
        if kind == "lora_bias" and key in owner
    }


def _check_distinct(adapter: Adapter) -> None:
    """Raise AdapterFormatError if two tensors would have one name in a PEFT adapter."""
    taken: dict[str, str] = {}
    lora = tuner_named(adapter.config) == "LORA"
    if lora:
        taken |= {key: path for (path, _), key in adapter.peft_keys.items()}
    named = names_adapter(adapter.extras.keys())
    for key in changing(adapter.extra_kinds, adapter.config):
        name = peft_name(key, named) if lora else key
        if name in taken:
            raise AdapterFormatError(
                explain(
                    "two tensors have the same name in PEFT",
                    adapter=adapter.name,
                    file=adapter.source,
                    got=f"{taken[name][:200]!r} and {key[:200]!r}",
                    do="Leave one of them out of the file",
                )
            )
        taken[name] = key


def _check_biases(adapter: Adapter) -> None:
    """Raise NumericalError for a bias of lora_B that overflows float32 once scaled."""
    for key, scale in bias_scales(adapter).items():
        values = adapter.extras[key].numpy().astype(np.float64)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0)) * abs(scale)
        if largest > float(np.finfo(np.float32).max):
            raise NumericalError(
                explain(
                    "a bias of lora_B overflows float32 once scaled",
                    adapter=adapter.name,
                    file=adapter.source,
                    module=key,
                    got=f"{largest:.3g}",
                    do="This adapter's training diverged or its file is damaged; leave it out",
                )
            )


_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked", "position_ids")
_FEWEST: Final = 8
"""Minimum size of a coded tensor; smaller ones take no more bytes uncoded."""
_MOST: Final = 1e45
"""Steps of a stream are far from leaving their range here; only 64 bit numbers go beyond."""


@dataclass(frozen=True)
class TensorMatrices:
    """A coded tensor of the contents that have it.

    contents: rising. read: the i-th of these as a matrix (N, k), the difference from what a reader
    has anyway. shape: (N, k).
    """

    entry: TensorEntry
    contents: tuple[int, ...]
    tensors: tuple[RawTensor, ...]
    own: RawTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return matrix_shape(self.entry.shape)

    def read(self, i: int) -> Array:
        values = as_matrix(self.tensors[i].float64().reshape(self.entry.shape))
        if self.own is None and self.entry.neutral == 0:
            return values
        difference: Array = values - reference_of(self.entry, None, self.own)
        return difference

    def squared_norms(self) -> list[float]:
        """Return the squared norm of each content's matrix, with one matrix in memory at a time."""
        return [float(np.sum(self.read(i) ** 2)) for i in range(len(self.contents))]


@dataclass(frozen=True)
class TensorsApart:
    """Tensors of an adapter beside its modules.

    kept: tensors stored bit by bit.
    coded: tensors coded with a loss.
    """

    kept: Mapping[str, RawTensor]
    coded: Mapping[str, RawTensor]


@dataclass(frozen=True)
class CodedTensors:
    """Coded tensors of all adapters.

    entries, matrices: parallel and sorted.
    of_adapter: indices of each adapter's entries, rising.
    """

    entries: tuple[TensorEntry, ...]
    matrices: tuple[TensorMatrices, ...]
    of_adapter: tuple[tuple[int, ...], ...]


def check_exact(adapters: Sequence[Adapter], exact: Sequence[str]) -> None:
    """Raise UsageError for a pattern of ``exact`` that no tensor beside the factors matches.

    A misspelt pattern would otherwise code with a loss what was to be kept bit by bit.
    """
    keys = sorted({key for adapter in adapters for key in adapter.extras})
    idle = [x for x in exact if not any(fnmatch.fnmatchcase(key, x) for key in keys)]
    if idle:
        raise UsageError(
            explain(
                "a pattern of tensors to keep bit by bit matches none",
                got=listed(idle),
                expected=f"a match of {listed(keys, 8)}" if keys else "tensors beside the factors",
            )
        )


def tensors_of(adapter: Adapter, exact: Sequence[str], lossless: bool) -> TensorsApart:
    """Choose which of an adapter's further tensors are coded with a loss.

    Coded: trained tensors of 16, 32 or 64 bit floats. Not coded: buffers, the names in ``exact``,
    and tensors with NaN or infinity, which only a copy can restore.
    """
    if lossless:
        return TensorsApart(adapter.tensors, {})
    coded = {key for key, x in adapter.extras.items() if _is_coded(adapter, key, x, exact)}
    kept = {key: x for key, x in adapter.extras.items() if key not in coded}
    return TensorsApart(kept, {key: adapter.extras[key] for key in sorted(coded)})


def _is_coded(adapter: Adapter, key: str, tensor: RawTensor, exact: Sequence[str]) -> bool:
    if tensor.dtype not in DENSE_DTYPES or adapter.extra_kinds.get(key) == "exact":
        return False
    if (
        not key
        or key.endswith(_BUFFERS)
        or any(fnmatch.fnmatchcase(key, pattern) for pattern in exact)
    ):
        return False
    size = int(np.prod(tensor.shape, dtype=object))
    if size < _FEWEST:
        return False
    largest = float(np.abs(tensor.float64()).max())
    return largest == 0 or 1 / _MOST < largest < _MOST  # not with NaN or infinity either


def collect(
    adapters: Sequence[Adapter],
    apart: Sequence[TensorsApart],
    contents: Sequence[int | None],
    base: BaseTensors | None,
) -> CodedTensors:
    """Return the coded tensors of all adapters; one entry per key, dtype, shape and kind.

    contents: of each adapter.
    base: the base model's own tensors. A tensor that replaces one of them is coded as the
        difference from it.
    """
    owns: dict[tuple[str, tuple[int, ...]], tuple[RawTensor, str] | None] = {}
    holders: dict[TensorEntry, dict[int, RawTensor]] = {}
    mine: list[list[TensorEntry]] = []
    for adapter, own, content in zip(adapters, apart, contents, strict=True):
        mine.append([])
        for key, tensor in own.coded.items():
            kind = adapter.extra_kinds.get(key, "saved")
            digest = None
            if base is not None and kind in ("saved", "bias"):
                at = key, tensor.shape
                if at not in owns:
                    match = matching_tensor(base, *at)
                    # There is no difference from what is not a number.
                    sound = match is not None and bool(np.isfinite(match.float64()).all())
                    owns[at] = (match, checksum(match.raw())) if match and sound else None
                known = owns[at]
                digest = known[1] if known else None
            entry = TensorEntry(key, tensor.dtype, tensor.shape, kind, digest)
            mine[-1].append(entry)
            if content is not None:
                holders.setdefault(entry, {}).setdefault(content, tensor)
    ordered = sorted(holders, key=TensorEntry.order)
    index = {entry: i for i, entry in enumerate(ordered)}
    matrices = []
    for entry in ordered:
        held = sorted(holders[entry].items())
        known = owns.get((entry.key, entry.shape)) if entry.base else None
        numbers, tensors = zip(*held, strict=True)
        matrices.append(TensorMatrices(entry, numbers, tensors, known[0] if known else None))
    rows = tuple(tuple(sorted(index[entry] for entry in entries)) for entries in mine)
    return CodedTensors(tuple(ordered), tuple(matrices), rows)
