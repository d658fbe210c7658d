"""Sets of adapters for the evidence: adapters, base and merges of each, and their names in tables.

A set is one list of adapters, by the hashes of their content: pinned.json. What a recipe trains on
another machine, or was trained before, is another set, and its rows stand apart.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT

__all__ = [
    "ALONE",
    "CLOSER",
    "CURVES",
    "DEFAULT",
    "METHOD",
    "PLANS",
    "PROMPTED",
    "REFIT",
    "REFIT_ALONE",
    "SETS",
    "WAYS",
    "WITH_PROMPTS",
    "Method",
    "pinned",
    "recipe_of",
    "set_of",
]

SETS = ("gemma3-5x8", "smollm2-en10", "qwen25coder-code5", "gemma3-separate8")
"""Those that tables show first, each named like the recipe that trains it."""
DEFAULT = "default"
METHOD = "hydraopt"
"""What tables call ours; the paper's method is "HydraOpt" there."""
CURVES, REFIT, ALONE = f"{METHOD}-curves", f"{METHOD}-refit", f"{METHOD}-refit-alone"
WITH_PROMPTS = (CURVES, REFIT, ALONE)
"""The same with prompts: a size divided by measured harm; the same with trained parts, both of
earlier versions, in stored results; and trained parts alone, as merges with prompts are today."""


@dataclass(frozen=True)
class Method:
    """One way to merge a set. name: what tables call it. size: the limit as tables say it: "5%",
    "harm 1%", or DEFAULT for none. options: of hydraopt.merge, and evidence.py's own."""

    name: str
    size: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of its bundle file, and its key in results."""
        limit = self.size.replace("%", "pct").replace(" ", "-")
        return f"{self.name}-{limit}.hydra.safetensors"

    @property
    def limit(self) -> dict[str, Any]:
        """What hydraopt.merge is told of the size, or of the harm."""
        if self.size == DEFAULT:
            return {}
        kind, _, value = self.size.rpartition(" ")
        return {kind or "size": value}


def _sizes(name: str, sizes: str, **options: Any) -> list[Method]:
    return [Method(name, size, options) for size in sizes.split()]


PROMPTED: dict[str, Any] = {"judge": {}, "sensitivity": "prompts", "refit": True}
"""What a merge is told, as merge --prompts does; evidence.py fills in which prompts."""


_CHOSEN: dict[str, Any] = {
    "lost": 3.0,
    "projected": 10.0,
    "unbiased": 300.0,
    "output": 4.0,
    "relative": 0.5,
    # Without a limit; it was found to be needed after these trials.
    "farthest": 1e9,
    "kinds": {"o_proj": 2.0},
    "grouped": ["k_proj", "v_proj"],
}
_ALIKE: dict[str, Any] = {"kinds": {}, "grouped": []}
_WEIGHTS: dict[str, dict[str, Any]] = {
    "chosen": {},
    "norm^-2, alike": {**_ALIKE, "relative": 1.0},
    "norm^-1, alike": _ALIKE,
    "norm^0, alike": {**_ALIKE, "relative": 0.0},
    "norm^0": {"relative": 0.0},
    "lost 1.5": {"lost": 1.5},
    "lost 6": {"lost": 6.0},
    "projected 5": {"projected": 5.0},
    "projected 20": {"projected": 20.0},
    "output 2": {"output": 2.0},
    "output 8": {"output": 8.0},
    "unbiased 50": {"unbiased": 50.0},
    "unbiased 2000": {"unbiased": 2000.0},
    "o alike": {"kinds": {}},
    "o 4": {"kinds": {"o_proj": 4.0}},
    "v alike": {"grouped": ["k_proj"]},
}
"""Trials around the default measure, one thing changed in each."""
_NEARBY: dict[str, dict[str, Any]] = {
    "d": {"output": 2.0, "projected": 5.0},
    "e": {"output": 2.0, "projected": 5.0, "lost": 2.0},
    "f": {"output": 2.0, "projected": 5.0, "kinds": {"o_proj": 3.0}},
    "g": {"output": 1.4, "projected": 4.0, "lost": 2.0, "kinds": {"o_proj": 3.0}},
    "h": {"output": 1.0, "projected": 3.0, "lost": 1.5},
    "i": {"output": 2.0, "projected": 5.0, "relative": 0.25},
}
_NEAREST: dict[str, dict[str, Any]] = {
    "j": {"output": 1.4, "projected": 4.0, "lost": 2.0, "kinds": {"o_proj": 3.0}, "relative": 0.25},
    "k": {"output": 1.4, "projected": 4.0, "lost": 2.0, "kinds": {"o_proj": 4.0}, "relative": 0.25},
    "l": {"output": 1.4, "projected": 2.0, "lost": 2.0, "kinds": {"o_proj": 3.0}, "relative": 0.25},
    "m": {"output": 1.4, "projected": 4.0, "lost": 1.4, "kinds": {"o_proj": 3.0}, "relative": 0.25},
    "n": {"output": 1.4, "projected": 4.0, "lost": 2.0, "kinds": {"o_proj": 3.0}, "relative": 0.0},
}
_SEEN = (("self", "self", 1.0), ("self^0.5", "self", 0.5), ("prompts^0.5", "prompts", 0.5))


def _trials(changes: Mapping[str, Mapping[str, Any]]) -> list[Method]:
    return [Method(name, "5%", {"tuned": {**_CHOSEN, **x}}) for name, x in changes.items()]


def _seen(name: str, text: str, power: float, change: Mapping[str, Any]) -> Method:
    tuned = {**_CHOSEN, **change}
    return Method(name, "5%", {"sensitivity": text, "temper": power, "tuned": tuned})


_HARMED = "5% 3% 2%"
CLOSER = "closer"
"""The plan that looks again, with more test rows, at bundles of the plan "sizes"."""
WAYS = "ways"
"""The plan of the sizes of a set that breaks earlier, and of the default."""
REFIT_ALONE = "refit-alone"
"""The plan of sizes whose parts are trained."""
PLANS: dict[str, list[Method]] = {
    "sizes": _sizes(METHOD, "52% 20% 10% 5% 3% 2% 1%"),
    CLOSER: _sizes(METHOD, "10% 5%"),
    DEFAULT: _sizes(METHOD, DEFAULT),
    "harm": [*_sizes(METHOD, _HARMED), *_sizes(ALONE, _HARMED, **PROMPTED)],
    WAYS: _sizes(METHOD, f"{DEFAULT} 10% 5%"),
    REFIT_ALONE: _sizes(ALONE, _HARMED, **PROMPTED),
    "fair": _sizes("hydraopt-fair", "5% 2%", fair=True),
    "sensitivity": [
        m for text in ("self", "prompts") for m in _sizes(f"see-{text}", "5% 2%", sensitivity=text)
    ],
    "weights": [*_trials(_WEIGHTS), *(_seen(*trial, {}) for trial in _SEEN)],
    "nearby": [*_trials(_NEARBY), _seen("f, self^0.5", "self", 0.5, _NEARBY["f"])],
    "nearest": [
        *_trials(_NEAREST),
        *(_seen(f"j, self^{power}", "self", power, _NEAREST["j"]) for power in (0.5, 0.75)),
    ],
}
"""What one run of evidence.py scores together."""


@functools.cache
def pinned() -> dict[str, tuple[str, dict[str, str]]]:
    """By set, its recipe and the content hash of every adapter by name; those of SETS first."""
    text = (Path(__file__).parent / "pinned.json").read_text(encoding="utf-8")
    found = {name: (x["recipe"], x["adapters"]) for name, x in json.loads(text).items()}
    return {name: found[name] for name in (*SETS, *(x for x in found if x not in SETS))}


def set_of(recipe: str, adapters: Mapping[str, str]) -> str:
    """The set of some adapters of a recipe, by name their content hashes: the first that has all of
    them. Adapters that no set pins, and none at all, are "RECIPE (other adapters)"."""
    for name, (trained_by, hashes) in pinned().items():
        if trained_by == recipe and adapters and adapters.items() <= hashes.items():
            return name
    return f"{recipe} (other adapters)"


def recipe_of(name: str) -> Path:
    """The recipe that trains the set."""
    return ROOT / "zoo" / "recipes" / f"{name}.json"
