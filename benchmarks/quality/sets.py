"""Sets of adapters: one list of adapters each, by the hashes of their content in pinned.json.

A set is named like the recipe in zoo/recipes that trains it. A recipe trains other adapters on
another machine, so results of a pinned set are of the adapters in the archive of zoo/fetch.py (of
``examples``, of those in the repository).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.rivals.base import DEFAULT
from hydraopt.adapters import Adapter, read_adapters
from zoo.recipe import read_recipe

__all__ = ["SIZES", "inputs_of", "original_adapters", "pinned", "recipe_of"]

SIZES = (DEFAULT, "10%", "5%", "3%", "2%")
"""Sizes of hydraopt in tables."""


@functools.cache
def pinned() -> dict[str, dict[str, str]]:
    """Return by set the content hash of every adapter by name."""
    text = (Path(__file__).parent / "pinned.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def recipe_of(name: str) -> Path:
    """Return the recipe that trains a set."""
    return ROOT / "zoo" / "recipes" / f"{name}.json"


def original_adapters(set_name: str) -> list[Adapter]:
    """Return the adapters of a set.

    Raises SystemExit if one is missing, with the commands that bring them, or if they are not those
    that the set pins.
    """
    recipe = read_recipe(recipe_of(set_name))
    folders = [ROOT / recipe.output / plan.name for plan in recipe.plans]
    if missing := [folder.name for folder in folders if not folder.is_dir()]:
        raise SystemExit(
            f"{len(missing)} adapters of {set_name} are missing ({missing[0]} ...); unpack those "
            "of the evidence, or train others:\n"
            "  python -m zoo.fetch zoo-evidence.tar\n"
            f"  python -m zoo.train --recipe zoo/recipes/{set_name}.json --tasks TASKS"
        )
    adapters = read_adapters([str(folder) for folder in folders])
    hashes = {x.name: x.content_hash() for x in adapters}
    if hashes != (wanted := pinned().get(set_name, hashes)):
        other = [name for name in hashes if hashes[name] != wanted.get(name)]
        raise SystemExit(f"{set_name} pins other adapters than these: {', '.join(other)}")
    return adapters


def inputs_of(adapters: Sequence[Adapter]) -> str:
    """Return a hash of some adapters."""
    hashes = "".join(adapter.content_hash() for adapter in adapters)
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]
