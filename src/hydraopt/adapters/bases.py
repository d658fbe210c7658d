"""Whether adapters belong to one base model, as far as names and shapes can tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hydraopt.adapters.model import Adapter
from hydraopt.errors import AlignmentError, BaseMismatchError, explain
from hydraopt.values import listed

__all__ = ["base_key", "check_same_base"]

_MOST_NAMED: Final = 8


def base_key(name: str) -> str:
    """What two spellings of one base model have in common.

    The last name of the path in lower case: "google/gemma-3-270m", "/models/Gemma-3-270m/" and
    "gemma-3-270m" agree. A path into a hub cache counts as the model it holds.

    >>> base_key("google/gemma-3-270m") == base_key("C:\\\\models\\\\Gemma-3-270M\\\\")
    True
    """
    parts = [part for part in re.split(r"[/\\]", name.strip()) if part]
    cached = [part for part in parts if part.startswith("models--")]
    if cached:
        parts = cached[-1].split("--")
    return parts[-1].casefold() if parts else ""


def check_same_base(adapters: Sequence[Adapter], same_base: bool) -> str | None:
    """The base model that all adapters share, as the first that names one writes it, or None.

    same_base: skip the comparison of names. Shapes are compared in any case: a module that two
    adapters have must have the same kind and the same (m, n).

    Raises BaseMismatchError listing the groups if names or revisions differ, or if only some
    adapters name a base; AlignmentError naming two adapters and the module whose shapes differ.
    """
    if not same_base:
        _check_names(adapters)
    first: dict[str, Adapter] = {}
    for adapter in adapters:
        for path, module in adapter.modules.items():
            owner = first.setdefault(path, adapter)
            other = owner.modules[path]
            if (module.kind, module.m, module.n) != (other.kind, other.m, other.n):
                raise AlignmentError(
                    explain(
                        f"adapters {owner.name!r} and {adapter.name!r} change modules of different "
                        "shape under one path",
                        module=path,
                        got=f"{adapter.name}: {module.kind} ({module.m}, {module.n})",
                        expected=f"{owner.name}: {other.kind} ({other.m}, {other.n})",
                        do="They were trained on different base models; merge them apart",
                    )
                )
    return next((adapter.base_model for adapter in adapters if adapter.base_model), None)


def _check_names(adapters: Sequence[Adapter]) -> None:
    groups: dict[tuple[str | None, str | None], list[Adapter]] = {}
    for adapter in adapters:
        base = base_key(adapter.base_model) if adapter.base_model else None
        groups.setdefault((base, adapter.revision), []).append(adapter)
    bases = {base for base, _ in groups}
    # A revision that is not stated agrees with any.
    revisions = {revision for _, revision in groups if revision is not None}
    if len(bases) < 2 and len(revisions) < 2:
        return
    stated = "; ".join(
        f"{members[0].base_model or '(not stated)'}"
        + (f" at revision {revision}" if revision else "")
        + f": {listed([adapter.name for adapter in members], _MOST_NAMED)}"
        for (_, revision), members in groups.items()
    )
    raise BaseMismatchError(
        explain(
            "adapters name different base models",
            got=stated,
            expected="one base model",
            do="Merge each group on its own; if they are one model under several names, pass "
            "--same-base (same_base=True)",
        )
    )
