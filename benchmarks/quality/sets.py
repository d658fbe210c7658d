"""The evidence sets: which adapters, of which base, merged how. What every table names them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PLANS", "RESULTS", "SETS", "Method", "recipe_of"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "quality" / "results"
SETS = ("gemma3-5x8", "smollm2-en10", "qwen25coder-code5", "gemma3-separate8")


@dataclass(frozen=True)
class Method:
    """One way to merge a set. name: what tables call it. options: of hydraopt.merge."""

    name: str
    size: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of its bundle file, and its key in results."""
        return f"{self.name}-{self.size.replace('%', 'pct')}.hydra.safetensors"


def _sizes(name: str, sizes: str, **options: Any) -> list[Method]:
    return [Method(name, size, options) for size in sizes.split()]


_FORMS = ("private", "shared-input", "shared-output", "two-sided", "predicted")

PLANS: dict[str, list[Method]] = {
    "sizes": _sizes("hydraopt", "52% 20% 10% 5% 3% 2% 1%"),
    "fair": _sizes("hydraopt-fair", "5% 2%", fair=True),
    "sensitivity": [
        m for text in ("self", "prompts") for m in _sizes(f"see-{text}", "5% 2%", sensitivity=text)
    ],
    "choices": [
        *(m for form in _FORMS for m in _sizes(f"only-{form}", "5% 2%", forms=[form])),
        *(m for x in ("frobenius", "displacement") for m in _sizes(x, "5% 2%", measure=x)),
    ],
}
"""What one run of evidence.py scores together."""


def recipe_of(name: str) -> Path:
    """The recipe that trains the set."""
    return ROOT / "zoo" / "recipes" / f"{name}.json"
