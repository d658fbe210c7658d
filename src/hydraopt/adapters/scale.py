"""The one place that decides how strongly a low-rank product counts: ``dW = scale * B @ A``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydraopt.adapters.rawtensor import refuse

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
    file: Path

    @classmethod
    def from_config(cls, config: Mapping[str, Any], file: Path) -> ScaleRule:
        """Read and check r, lora_alpha, use_rslora, rank_pattern and alpha_pattern.

        Raises AdapterFormatError for a missing or senseless value or a broken pattern.
        """
        r, alpha = config.get("r"), config.get("lora_alpha")
        ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
        _check("r", r, _is_rank, "a whole number of at least 1", file)
        _check("lora_alpha", alpha, _is_finite, "a finite number", file)
        for key, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            _check(key, patterns, lambda x: isinstance(x, dict), "a map from patterns", file)
            for pattern, value in patterns.items():
                if key == "rank_pattern":
                    _check(f"{key}[{pattern!r}]", value, _is_rank, "a whole number >= 1", file)
                else:
                    _check(f"{key}[{pattern!r}]", value, _is_finite, "a finite number", file)
                try:
                    re.compile(_whole(pattern))
                except re.error as error:
                    refuse(f"{key} holds a broken pattern {pattern!r}", file, got=error, do=_EDIT)
        rslora = bool(config.get("use_rslora", False))
        return cls(int(r or 0), float(alpha or 0), rslora, ranks, alphas, file)

    def rank(self, path: str) -> int:
        """Rank that the settings give the module at path (without wrapper prefixes)."""
        return int(_lookup(self.rank_pattern, path, self.r))

    def scale(self, path: str) -> float:
        """Scale of the module at path."""
        r, alpha = self.rank(path), float(_lookup(self.alpha_pattern, path, self.alpha))
        return alpha / math.sqrt(r) if self.rslora else alpha / r


def ratio(alpha: float | None, r: int, *, module: str, file: Path) -> float:
    """alpha / r, and 1 where no alpha is stated or it is 0, as kohya and diffusers define it."""
    if alpha is None or alpha == 0:
        return 1.0
    if not math.isfinite(alpha):
        refuse("alpha is not finite", file, module=module, got=alpha)
    return alpha / r


def mlx_scale(config: Mapping[str, Any], file: Path) -> tuple[float, int | None]:
    """(scale, rank) of an MLX config: ``y += scale * (x @ lora_a) @ lora_b``.

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


def _whole(pattern: str) -> str:
    """PEFT's reading of a pattern: it must match a whole path, or its end after a dot."""
    return rf"(.*\.)?({pattern})$"


def _lookup(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(_whole(pattern), path):
            return value
    return default


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check(key: str, value: Any, test: Any, expected: str, file: Path) -> None:
    if not test(value):
        refuse(f"setting {key} is missing or wrong", file, got=value, expected=expected, do=_EDIT)
