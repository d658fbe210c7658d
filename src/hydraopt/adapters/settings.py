"""Rank and scale of each module, from the settings and expressions of adapter_config.json.

``re`` backtracks without end on expressions such as ``(a+)+X``; ``regex`` reads the same language
and stops. What ``re`` would not compile is broken, because PEFT uses ``re``.

PEFT finds the modules to wrap by ``target_modules``, ``exclude_modules`` and
``layers_to_transform`` (``check_target_module_exists``), and takes rank and alpha from the first
pattern that matches a module's path (``get_pattern_key``). Code that writes a config follows the
same rules.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from hydraopt.adapters.tensors import refuse
from hydraopt.files import AnyPath

_LONGEST: Final = 1 << 16
_MOST_REPEATS: Final = 10**6
"""Counted repeats multiplied, since an expression is as large as that once it is compiled."""
_COUNTED: Final = re.compile(r"\{(?:\d*,)?(\d+)\}")
_SECONDS: Final = 1.0
_PLAIN: Final = re.compile(r"[^()\[\]{}?*+|^$\\\n]*")


class Patience:
    """Seconds that all matches of one config together may still take.

    A match of an ordinary expression takes a microsecond.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.left = seconds


@functools.lru_cache(maxsize=1 << 14)
def compiled(pattern: str) -> Any:
    """Return the expression, compiled.

    Raises ValueError for a broken one, for 64 k characters and more, and for one that stands for a
    million characters and more.
    """
    import regex  # most configs have nothing to match

    if len(pattern) > _LONGEST:
        raise ValueError(f"an expression of {len(pattern)} characters")
    repeats = math.prod(max(int(count), 1) for count in _COUNTED.findall(pattern))
    if repeats > _MOST_REPEATS:
        raise ValueError("an expression that counts repeats to more than a million in all")
    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def match(pattern: str, path: str, patience: Patience, whole: bool = False) -> Any:
    """Return a match from the start, of the ``whole`` path if so wished, or None.

    Raises ValueError for a broken expression, TimeoutError when the patience is at its end.
    """
    expression = compiled(pattern)
    if patience.left <= 0:
        raise TimeoutError("no patience left")
    started = time.monotonic()
    try:
        seek = expression.fullmatch if whole else expression.match
        return seek(path, timeout=patience.left)
    finally:
        patience.left -= time.monotonic() - started


@functools.lru_cache(maxsize=1 << 14)
def path_parts(pattern: str) -> tuple[str, ...] | None:
    """Return the parts of an expression that is a plain path, else None.

    In a plain path every character but the dot matches itself alone, so it needs no compiling.
    """
    if len(pattern) > _LONGEST or not _PLAIN.fullmatch(pattern):
        return None
    return tuple(pattern.split("."))


def ends_with(path: str, pattern: str) -> bool | None:
    """Return whether ``(.*\\.)?(PATTERN)$`` matches the path; None if :func:`path_parts` is.

    The dots of a pattern match any character, as those of expressions do.
    """
    parts = path_parts(pattern)
    if parts is None or "\n" in path:
        return None
    if not path.endswith(parts[-1]):
        return False
    place = len(path) - len(pattern)
    if place < 0 or (place and path[place - 1] != "."):
        return False
    for part in parts:
        if not path.startswith(part, place):
            return False
        place += len(part) + 1
    return True


@dataclass(frozen=True)
class ScaleRule:
    """PEFT's settings for ranks and scales, and PEFT's way of resolving them for one module.

    scale = alpha / r, or alpha / sqrt(r) with rsLoRA, where r and alpha come from the first
    pattern that matches the module path, else from the defaults.
    """

    r: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    file: AnyPath
    _patience: Patience = field(default_factory=Patience, compare=False, repr=False)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], file: AnyPath, alpha_key: str = "lora_alpha"
    ) -> ScaleRule:
        """Read and check r, lora_alpha, use_rslora, rank_pattern and alpha_pattern.

        alpha_key: LoHa and LoKr call it "alpha". Raises AdapterFormatError for a missing or
        senseless value or a broken pattern.
        """
        r, alpha = config.get("r"), config.get(alpha_key)
        ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
        _check("r", r, _is_rank, "a whole number of at least 1", file)
        _check(alpha_key, alpha, _is_finite, "a finite number", file)
        for key, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            _check(key, patterns, lambda x: isinstance(x, dict), "a map from patterns", file)
            for pattern, value in patterns.items():
                if key == "rank_pattern":
                    _check(f"{key}[{pattern!r}]", value, _is_rank, "a whole number >= 1", file)
                else:
                    _check(f"{key}[{pattern!r}]", value, _is_finite, "a finite number", file)
                try:
                    if path_parts(pattern) is None:
                        compiled(_whole(pattern))
                except ValueError as error:
                    refuse(f"{key} holds a broken pattern {pattern!r}", file, got=error, do=_EDIT)
        rslora = bool(config.get("use_rslora", False))
        return cls(int(r or 0), float(alpha or 0), rslora, ranks, alphas, file)

    def rank(self, path: str) -> int:
        """Return the rank that the settings give the module at path (without wrapper prefixes).

        This and :meth:`scale` raise AdapterFormatError for patterns that take too long.
        """
        return int(self._find(self._ranks, path, self.r))

    def scale(self, path: str) -> float:
        """Return the scale of the module at path."""
        r, alpha = self.rank(path), float(self._find(self._alphas, path, self.alpha))
        return alpha / math.sqrt(r) if self.rslora else alpha / r

    @cached_property
    def _ranks(self) -> _Patterns:
        return _Patterns(self.rank_pattern)

    @cached_property
    def _alphas(self) -> _Patterns:
        return _Patterns(self.alpha_pattern)

    def _find(self, patterns: _Patterns, path: str, default: Any) -> Any:
        try:
            return patterns.find(path, default, self._patience)
        except TimeoutError:
            refuse(
                "the patterns take too long to match",
                self.file,
                module=path,
                got=f"{len(self.rank_pattern)} in rank_pattern, {len(self.alpha_pattern)} in "
                "alpha_pattern",
                do="Name the modules in full in rank_pattern and alpha_pattern",
            )


class _Patterns:
    """Patterns and what they stand for; the first that matches a path counts.

    Those of our own making (:func:`exact_pattern`) name one path each and are looked up.
    """

    def __init__(self, patterns: Mapping[str, Any]) -> None:
        self._exact: dict[str, tuple[int, Any]] = {}
        self._others: list[tuple[int, str, str, Any]] = []
        for i, (pattern, value) in enumerate(patterns.items()):
            if _EXACT.fullmatch(pattern):
                path = re.sub(r"\\(.)", r"\1", pattern[1:])
                self._exact[path] = i, value
            else:
                # What every path ends with that a plain pattern matches; nothing of the others.
                end = (path_parts(pattern) or ("",))[-1]
                self._others.append((i, end, pattern, value))

    def find(self, path: str, default: Any, patience: Patience) -> Any:
        """Return the value of the first pattern that matches; TimeoutError if it takes too long."""
        place, value = self._exact.get(path, (len(self._exact) + len(self._others), default))
        for i, end, pattern, other in self._others:
            if i > place:
                break
            if not path.endswith(end) and "\n" not in path:
                continue
            matched = ends_with(path, pattern)
            if matched is None:
                matched = match(_whole(pattern), path, patience) is not None
            if matched:
                return other
        return value


def ratio(alpha: float | None, r: int, *, module: str, file: AnyPath) -> float:
    """Return alpha / r, or 1 if no alpha is stated or it is 0, as kohya and diffusers define it."""
    if alpha is None or alpha == 0:
        return 1.0
    if not math.isfinite(alpha):
        refuse("alpha is not finite", file, module=module, got=alpha, do="Save the adapter again")
    if r < 1:
        refuse("a pair has no rank", file, module=module, got=r, do="Save the adapter again")
    return alpha / r


def mlx_scale(config: Mapping[str, Any], file: AnyPath) -> tuple[float, int | None]:
    """Return (scale, rank) of an MLX config: ``y += scale * (x @ lora_a) @ lora_b``.

    mlx-lm has multiplied by ``scale`` alone since June 2024; an ``alpha`` beside it, which it kept
    writing until April 2025, has no effect.
    """
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict) or not _is_finite(parameters.get("scale")):
        refuse(
            "the MLX config states no scale",
            file,
            got=repr(parameters)[:80],
            expected='"lora_parameters": {"rank": ..., "scale": ...}',
            do="Add the scale the adapter was trained with to adapter_config.json",
        )
    rank = parameters.get("rank")
    if rank is not None:
        _check("lora_parameters.rank", rank, _is_rank, "a whole number of at least 1", file)
    return float(parameters["scale"]), rank


_EDIT = "Correct adapter_config.json"
# What exact_pattern makes: word characters, and all others escaped.
_EXACT: Final = re.compile(r"\^(?:\w|\\\W)+")
_MOST_RANK: Final = 1 << 31
_MOST_ALPHA: Final = 1e300


def _whole(pattern: str) -> str:
    """Return PEFT's reading of a pattern: it must match a whole path, or its end after a dot."""
    return rf"(.*\.)?({pattern})$"


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value < _MOST_RANK


def _is_finite(value: Any) -> bool:
    # The largest float is 1e308, and an int of JSON may have thousands of digits.
    return type(value) in (int, float) and abs(value) < _MOST_ALPHA


def _check(key: str, value: Any, test: Any, expected: str, file: AnyPath) -> None:
    if not test(value):
        shown = repr(value)[:80]
        refuse(f"setting {key} is missing or wrong", file, got=shown, expected=expected, do=_EDIT)


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
