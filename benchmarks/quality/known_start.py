"""Measure what a known start is worth: bytes at equal KL with and without it, by number of tasks.

    python -m benchmarks.quality known_start gemma3-typical8 --tasks TASKS
    python -m benchmarks.quality known_start smollm2-typical8 --tasks TASKS --together 8 --sizes 10%

SET is a recipe of zoo/recipes; its adapters start from one seed. They are merged in groups of
--together tasks, in name order, at each size, in three ways: "known" with their start, "unknown"
without it (trace=False), and "private". The start of adapters that zoo.train drew itself is given
to the merge; one that PEFT drew is traced. KL is teacher-forced, in nats an answer, on the first
rows of a split that nothing was trained on. Files are whole bundles. Saved after each task; a
second call continues, and refuses a result of other rows or code.
Writes benchmarks/results/quality/SET.known-start.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, begun, package_hash, provenance, rewriting, save_json
from benchmarks.quality.sets import original_adapters, recipe_of
from benchmarks.rivals.base import DEFAULT
from hydraopt.adapters import Adapter
from hydraopt.adapters.start import traced
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.run import encode_task, run_task
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.start import Drawn, KnownStart
from hydraopt.merging.merge import merge
from zoo.bases import base_folder
from zoo.lora import module_seed
from zoo.recipe import Recipe, read_recipe

__all__ = ["Variant", "main", "variants"]

WAYS: Mapping[str, Mapping[str, Any]] = {
    "known": {},
    "unknown": {"trace": False},
    "private": {"trace": False, "forms": ("private",)},
}
"""Options of the merge for each way; only "known" gets adapters with their start."""


@dataclass(frozen=True)
class _ByModule(KnownStart):
    """Start of an adapter of zoo.train, whose modules have a seed each.

    seeds: of the modules, by the place where each begins.
    """

    seeds: tuple[tuple[int, int], ...] = ()

    def initial(self, offset: int, r: int, n: int) -> Basis:
        seed = dict(self.seeds)[offset] & 0xFFFFFFFF
        return KnownStart(seed, r * n).initial(0, r, n)


def started(adapter: Adapter, recipe: Recipe) -> Adapter:
    """Return the adapter with its start."""
    plan = next(x for x in recipe.plans if x.name == adapter.name)
    if isinstance(plan.init_seed, int):
        return traced([adapter])[0]
    seeds, begins = [], 0
    places = {}
    for path, module in adapter.modules.items():
        seeds.append((begins, module_seed(plan.init_seed, path)))
        places[path] = begins
        begins += module.r * module.n
    start = _ByModule(0, begins, tuple(seeds))
    modules = {
        path: dataclasses.replace(x, initial=Drawn(start, places[path], x.r))
        for path, x in adapter.modules.items()
    }
    return dataclasses.replace(adapter, modules=modules)


@dataclass(frozen=True)
class Variant:
    """A merge: way, size and number of tasks."""

    way: str
    size: str
    together: int

    @property
    def label(self) -> str:
        return f"{self.way} {self.size} {self.together}"


def variants(args: argparse.Namespace) -> list[Variant]:
    """Return the merges that are asked for; tasks alone have nothing to share without a start."""
    return [
        Variant(way, size, count)
        for count in args.together
        for size in args.sizes
        for way in args.ways
        if count > 1 or way != "unknown"
    ]


def made(
    variant: Variant, adapters: Sequence[Adapter], recipe: Recipe
) -> Mapping[str, tuple[int, Any]]:
    """Return (bytes, factors by module) of each task of a group. bytes: of the file, per task."""
    options = WAYS[variant.way]
    known = [started(x, recipe) for x in adapters] if variant.way == "known" else list(adapters)
    limit: dict[str, Any] = {} if variant.size == DEFAULT else {"size": variant.size}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.hydra.safetensors"
        result = merge(known, path, **limit, workers=1, **options)
        bundle, found = open_bundle(path), {}
        for adapter in known:
            task = bundle[adapter.name]
            if variant.way == "known" and task.entry.start is not None:
                start = next(x.initial.start for x in adapter.modules.values() if x.initial)
                task = dataclasses.replace(task, entry=dataclasses.replace(task.entry, start=start))
            factors = {p: (x.B.astype("f4"), x.A.astype("f4")) for p, x in task.factors().items()}
            found[adapter.name] = result.size // len(known), factors
    return found


def measured(
    adapters: Sequence[Adapter], todo: Sequence[Variant], recipe: Recipe, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Return bytes, KL and the KL of each row, by variant and task of a group."""
    made_by = {x.label: made(x, adapters, recipe) for x in todo}
    found: dict[str, dict[str, Any]] = {x.label: {} for x in todo}
    for adapter in adapters:
        name, language, _ = named_task(adapter.name, adapter.source.parent, args.tasks)
        data = read_task_file(args.tasks, name, language, args.split)
        plan = next(x for x in recipe.plans if x.name == adapter.name)
        items = encode_task(data, args.tokenizer, args.rows, plan.max_tokens)
        sets: dict[str, Any] = {"original": {p: x.factors() for p, x in adapter.modules.items()}}
        sets |= {label: by_task[adapter.name][1] for label, by_task in made_by.items()}
        with products_of("float32"):
            scores = run_task(args.model, args.tokenizer, items, sets, "original", write=False)
        for label, by_task in made_by.items():
            kl = [float(x) for x in scores[label].divergence]
            found[label][adapter.name] = {
                "bytes": by_task[adapter.name][0],
                "share": by_task[adapter.name][0] / (2 * adapter.numbers),
                "kl": sum(kl) / len(kl),
                "rows": [float(f"{x:.4g}") for x in kl],
            }
            print(f"{adapter.name} {label}: {found[label][adapter.name]['kl']:.6f}", flush=True)
    return found


def merges_of(file: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a result has so far. Raises SystemExit for one of other rows or code."""
    begun(file, about, tuple(about))
    found: dict[str, dict[str, Any]]
    found = json.loads(file.read_text())["merges"] if file.is_file() else {}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    sizes = ["40%", DEFAULT, "20%", "10%", "5%", "3%", "2%"]
    parser.add_argument("--sizes", nargs="+", default=sizes)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--together", nargs="+", type=int, default=[1])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these adapters of the set")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    recipe = read_recipe(recipe_of(args.set))
    adapters = [x for x in original_adapters(args.set) if not args.only or x.name in args.only]
    file = args.output / f"{args.set}.known-start.json"
    head = provenance(f"{args.set}: bytes and KL with and without a known start", seed=0)
    about = {"split": args.split, "count": args.rows, "code": package_hash()}
    results = merges_of(file, about)
    args.model, args.tokenizer = load_model(str(base_folder(recipe.base)))
    for count in args.together:
        for first in range(0, len(adapters) - count + 1, count):
            group = adapters[first : first + count]
            todo = [
                x
                for x in variants(args)
                if x.together == count
                and not all(y.name in results.get(x.label, {}) for y in group)
            ]
            found = measured(group, todo, recipe, args) if todo else {}
            with rewriting(file):
                results = merges_of(file, about)
                for label, rows in found.items():
                    results.setdefault(label, {}).update(rows)
                save_json(file, {**head, **about, "merges": results})
