"""Read tensors of the base model; check that adapters belong to one base model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hydraopt.adapters.model import Adapter
from hydraopt.adapters.tensorfile import open_tensors
from hydraopt.adapters.tensors import RawTensor
from hydraopt.errors import AdapterFormatError, BaseMismatchError, UsageError, explain
from hydraopt.notes import listed

BaseTensors = Mapping[str, RawTensor]
"""Tensors of the base model by the names in its weight files."""

_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")


def open_base(base: str | os.PathLike[str] | BaseTensors | None) -> BaseTensors | None:
    """Return the tensors of a transformers folder or of one weight file; reads headers only.

    Given tensors, and None, are returned unchanged.

    Raises UsageError for a folder without weight files and for files that cannot be read.
    """
    if base is None or isinstance(base, Mapping):
        return base
    place = Path(base)
    files = [place] if place.is_file() else []
    for pattern in _WEIGHTS if place.is_dir() else ():
        files = files or sorted(place.glob(pattern))
    if not files:
        raise UsageError(
            explain(
                "the base model has no weight files",
                file=place,
                expected=f"a folder with one of {', '.join(_WEIGHTS)}",
                do="Give the folder that transformers loads",
            )
        )
    tensors: dict[str, RawTensor] = {}
    for file in files:
        try:
            tensors.update(open_tensors(file))
        except AdapterFormatError as error:
            raise UsageError(error.within("the base model cannot be read: ")) from error
    return tensors


_MOST_NAMED: Final = 8

_Shape = tuple[str, int, int, str]
"""Kind, m and n of a module, and the adapter that has it."""


def base_label(name: str) -> str:
    """Return the last name of the path to a base model; of a path into a hub cache, the model's.

    >>> base_label("/cache/models--google--gemma-3-270m/snapshots/0f1e")
    'gemma-3-270m'
    """
    parts = [part for part in re.split(r"[/\\]", name.strip()) if part]
    cached = [part for part in parts if part.startswith("models--")]
    if cached:
        parts = cached[-1].split("--")
    return parts[-1] if parts else ""


def base_key(name: str) -> str:
    """Return a key that all spellings of one base model have in common.

    The last name of the path in lower case: "google/gemma-3-270m", "/models/Gemma-3-270m/" and
    "gemma-3-270m" agree. A path into a hub cache counts as the model it holds.

    >>> base_key("google/gemma-3-270m") == base_key("C:\\\\models\\\\Gemma-3-270M\\\\")
    True
    """
    return base_label(name).casefold()


def check_same_base(adapters: Sequence[Adapter], same_base: bool) -> str | None:
    """Return the base model that all adapters share, as first written by one of them, or None.

    same_base: skip the comparison of names. Shapes are compared in any case: a module that two
    adapters have must have the same kind and the same (m, n).

    Raises BaseMismatchError that lists the groups of adapters that fit together, if names or
    revisions differ, if only some adapters name a base, or if shapes differ; for shapes it names
    two adapters and the module.
    """
    by_name = _by_name(adapters, same_base)
    groups: list[tuple[str, list[Adapter]]] = []
    clashes: list[str] = []
    for base, members in by_name:
        for i, alike in enumerate(_by_shape(members, clashes), start=1):
            groups.append((base if i == 1 else f"{base}, shapes {i}", alike))
    if len(groups) < 2:
        return next((adapter.base_model for adapter in adapters if adapter.base_model), None)
    named = len(by_name) > 1
    stated = "; ".join(
        f"{base}: {listed([adapter.name for adapter in alike], _MOST_NAMED)}"
        for base, alike in groups
    )
    others = "; if they are one model under several names, pass --same-base (same_base=True)"
    error = BaseMismatchError(
        explain(
            "adapters name different base models" if named else clashes[0],
            got="; ".join([stated, *(clashes if named else clashes[1:])]),
            expected="one base model",
            do=f"Merge each group on its own{others if named and not clashes else ''}",
        )
    )
    error.groups = tuple((base, tuple(x.name for x in alike)) for base, alike in groups)
    raise error


def _by_name(adapters: Sequence[Adapter], same_base: bool) -> list[tuple[str, list[Adapter]]]:
    """Group adapters by the base model that they name, and by revision if several are stated."""
    if same_base:
        return [("one base", list(adapters))]
    bases: dict[str | None, list[Adapter]] = {}
    for adapter in adapters:
        base = base_key(adapter.base_model) if adapter.base_model else None
        bases.setdefault(base, []).append(adapter)
    groups: list[tuple[str, list[Adapter]]] = []
    for members in bases.values():
        name = members[0].base_model or "(not stated)"
        by_revision: dict[str | None, list[Adapter]] = {}
        for adapter in members:
            by_revision.setdefault(adapter.revision, []).append(adapter)
        if len(by_revision.keys() - {None}) < 2:  # One that is not stated agrees with any.
            groups.append((name, members))
            continue
        for revision, some in by_revision.items():
            groups.append((f"{name} at revision {revision}" if revision else name, some))
    return groups


def _by_shape(adapters: Sequence[Adapter], clashes: list[str]) -> list[list[Adapter]]:
    """Return groups whose modules have one shape each.

    For each group but the first, a difference to an earlier group is added to ``clashes``.
    """
    groups: list[list[Adapter]] = []
    shapes: list[dict[str, _Shape]] = []
    for adapter in adapters:
        mine: dict[str, _Shape] = {
            path: (x.kind, x.m, x.n, adapter.name) for path, x in adapter.modules.items()
        }
        clash = None
        for group, first in zip(groups, shapes, strict=True):
            path = next((x for x in mine if x in first and first[x][:3] != mine[x][:3]), None)
            if path is None:
                group.append(adapter)
                first.update({x: mine[x] for x in mine.keys() - first.keys()})
                break
            clash = clash or _clash(path, first[path], mine[path])
        else:
            clashes += [] if clash is None else [clash]
            groups.append([adapter])
            shapes.append(mine)
    return groups


def _clash(path: str, first: _Shape, other: _Shape) -> str:
    (kind, m, n, name), (other_kind, other_m, other_n, other_name) = first, other
    return (
        f"adapters {name!r} and {other_name!r} change modules of different shape under one path "
        f"[module {path}]: {name} {kind} ({m}, {n}), {other_name} {other_kind} "
        f"({other_m}, {other_n})"
    )
