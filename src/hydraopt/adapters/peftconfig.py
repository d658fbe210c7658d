"""Settings of adapter_config.json by which PEFT gives each module its rank and its scale.

PEFT finds the modules to wrap by ``target_modules``, ``exclude_modules`` and
``layers_to_transform`` (``check_target_module_exists``), and takes rank and alpha from the first
pattern that matches a module's path (``get_pattern_key``). Code that writes a config follows the
same rules.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.adapters.expressions import Patience, ends_with, match, path_parts

__all__ = [
    "exact_pattern", "finds", "pattern_of", "ranks_and_alphas", "resolved_config", "written_config",
]  # fmt: skip

_DROPPED: Final = ("hydraopt", "enable_lora", "merge_weights")
"""Left behind by other formats, and by versions of PEFT that stored fused projections in groups."""

_ADALORA: Final = (
    "beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "rank_pattern", "target_r", "tfinal",
    "tinit", "total_step",
)  # fmt: skip
"""Settings of AdaLoRA that LoRA does not have or that differ from LoRA's."""

_MOST_COMPARED: Final = 1000
"""Paths up to which each is compared with all others, to find the plainest pattern."""

_NARROWING: Final = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Settings that take modules away again from those that ``target_modules`` names."""


def written_config(
    config: Mapping[str, Any], paths: Iterable[str], base_model: str | None
) -> dict[str, Any]:
    """Return ``config`` for a PEFT file with pairs at ``paths``; ranks and scales unchanged.

    config: of :func:`resolved_config`; without targets it gets the paths for targets.
    paths: as PEFT matches them (``PeftKey.settings_path``).
    base_model: named where the config names none.
    """
    written = {key: value for key, value in config.items() if key not in _DROPPED}
    written["peft_type"] = "LORA"
    if not written.get("base_model_name_or_path") and base_model:
        written["base_model_name_or_path"] = base_model
    targets = sorted(paths)
    if targets and "target_modules" not in written and not written.get("target_parameters"):
        written["target_modules"] = targets
    return written


def resolved_config(
    config: Mapping[str, Any], paths: Iterable[str], keeps_ranks: bool = False
) -> dict[str, Any]:
    """Return ``config`` without the settings that :func:`written_config` and its caller replace.

    These are the patterns of ranks and scales, unless ``keeps_ranks``, and targets that do not find
    every one of ``paths``. What remains can be copied without matching any expression.
    """
    replaced = set() if keeps_ranks else {"rank_pattern", "alpha_pattern"}
    if config.get("peft_type") == "ADALORA":
        replaced.update(_ADALORA)
    patience = Patience()
    if not config.get("target_parameters") and not all(finds(config, x, patience) for x in paths):
        replaced.update(("target_modules", *_NARROWING))
    return {key: value for key, value in config.items() if key not in replaced}


@dataclass(frozen=True)
class RanksAndAlphas:
    """Settings by which PEFT gives each module its rank and its scale, alpha / rank."""

    r: int
    lora_alpha: int
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]


def ranks_and_alphas(settings: Mapping[str, tuple[int, float]], r: int) -> RanksAndAlphas:
    """Return the settings that give each path its (rank, alpha), patterns in order.

    The scale is alpha / rank.

    r: rank and alpha of the paths that need no pattern.
    """
    ranks = {pattern_of(x, settings): rank for x, (rank, _) in settings.items() if rank != r}
    alphas = {pattern_of(x, settings): alpha for x, (_, alpha) in settings.items() if alpha != r}
    return RanksAndAlphas(r, r, False, ranks, alphas)


def finds(config: Mapping[str, Any], path: str, patience: Patience | None = None) -> bool:
    """Return whether PEFT wraps the module at ``path`` according to the config's own settings.

    Settings of types that PEFT does not accept match nothing, and neither do expressions that take
    longer than ``patience``. "all-linear" depends on the model and counts as a match.
    """
    patience = patience or Patience()
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return True
    if _named(config.get("exclude_modules"), path, patience):
        return False
    if not _named(targets, path, patience):
        return False
    # A list that holds the whole path, and an expression, name the layer themselves.
    return isinstance(targets, str) or path in (targets or ()) or _in_layers(config, path, patience)


def _named(names: Any, path: str, patience: Patience) -> bool:
    """Return whether a regular expression matches the path, or a list has it or its last names."""
    if isinstance(names, str):
        return _match(names, path, patience, whole=True) is not None
    if not isinstance(names, list | tuple | set | frozenset):
        return False
    return any(isinstance(x, str) and f".{path}".endswith(f".{x}") for x in names)


def _in_layers(config: Mapping[str, Any], path: str, patience: Patience) -> bool:
    """Return whether ``layers_to_transform`` has the path's first number, or is not set."""
    wanted, patterns = config.get("layers_to_transform"), config.get("layers_pattern")
    if wanted is None or wanted == []:
        return True
    if isinstance(patterns, str) and patterns:
        patterns = [patterns]
    if isinstance(patterns, list) and patterns:
        heads = [rf"(?:^|.*?\.){x}\.(\d+)\." for x in patterns if isinstance(x, str)]
    else:
        heads = [r".*?\.[^.]*\.(\d+)\."]
    layer = next((hit for x in heads if (hit := _match(x, path, patience))), None)
    layers = wanted if isinstance(wanted, list) else [wanted]
    # A pattern may have a group of its own before the one of the number.
    if layer is None or not (layer[1] or "").isdecimal():
        return False
    return any(type(x) is int and x == int(layer[1]) for x in layers)


def _match(pattern: str, path: str, patience: Patience, whole: bool = False) -> Any:
    """Return a match from the start, of the ``whole`` path on request, else None.

    None also for a broken pattern and for one that takes too long.
    """
    try:
        return match(pattern, path, patience, whole)
    except (ValueError, TimeoutError):
        return None


def pattern_of(path: str, paths: Collection[str]) -> str:
    """Return a pattern that PEFT matches with ``path`` and with no other of ``paths``.

    PEFT tries ``(.*\\.)?(PATTERN)$``. The path itself is what people expect to read, and what
    versions before 0.14 need, which put a dot before it; it is anchored only where it matches
    another module's path too (its end, or through a dot, which matches any character), where it has
    characters that a pattern reads otherwise, and among more than a thousand.
    """
    parts = path_parts(path)
    if parts is None or len(paths) > _MOST_COMPARED:
        return exact_pattern(path)
    for other in paths:
        # What ends otherwise does not match, and is most of them.
        if other.endswith(parts[-1]) and ends_with(other, path) != (other == path):
            return exact_pattern(path)
    return path


def exact_pattern(path: str) -> str:
    """Return a pattern that PEFT matches with this path alone, whatever other paths there are."""
    return "^" + re.escape(path)
