"""Scale of a low-rank product, ``dW = scale * B @ A``, decided in this one place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from hydraopt.adapters.expressions import Patience, compiled, ends_with, match, path_parts
from hydraopt.adapters.rawtensor import refuse
from hydraopt.files.url import AnyPath

__all__ = ["ScaleRule", "mlx_scale", "ratio"]


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
