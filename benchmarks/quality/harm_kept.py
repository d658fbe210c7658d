"""Check on new rows whether merges keep their limits on harm.

    python -m benchmarks.quality harm_kept SET --tasks TASKS [--limits 1% 2%] [--only "*-de"]

Merges a set, or those of its adapters whose names match a pattern, with each limit, harm measured
on prompts: the first rows of the validation split and then of the training split. Then it counts
how many of each original's own answers to the first rows of the test split change. A task keeps the
limit if their share is no larger; it surely breaks it if even the lower end of the share's 95 %
interval (Clopper and Pearson 1934) is larger. Saved after each task; a second call continues, and
refuses a result of other adapters, rows or code. Writes
benchmarks/results/quality/SET.harm-kept.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, append_rows, begun, package_hash, provenance
from benchmarks.quality.equal_kl import Scorer, packed
from benchmarks.quality.prompts import prompts_hash, real_prompts
from benchmarks.quality.sets import inputs_of, original_adapters, recipe_of
from benchmarks.rivals.base import METHOD, Compressor, ReadBack, Tasks, tasks_of
from benchmarks.rivals.bundles import BUNDLE, read_bundle
from hydraopt.adapters import Adapter
from hydraopt.merging import Look, merge
from hydraopt.model import AnswerJudge, load_model
from hydraopt.model.drift import drift_of
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["interval", "kept", "main"]

_SAME = ("count", "asked", "code", "inputs")
"""What a result that is continued may not have changed."""


def interval(changed: int, answers: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of answers, exact for a binomial count."""
    from scipy.stats import binomtest

    found = binomtest(changed, answers).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def kept(changed: int, answers: int, limit: float) -> dict[str, Any]:
    """Compare one task with a limit, a share in (0, 1): counts, percentages, whether it is kept."""
    low, high = interval(changed, answers)
    return {
        "changed": changed,
        "answers": answers,
        "changed_pct": round(100 * changed / answers, 3),
        "interval_pct": [round(100 * low, 3), round(100 * high, 3)],
        "kept": changed <= limit * answers + 1e-9,  # 0.7 % of 1,000 is seven
        "surely_broken": low > limit,
    }


def limited(adapters: Sequence[Adapter], limit: str, look: Look) -> Compressor:
    """Return hydraopt's bundle of the adapters with a limit on harm, as a row beside the rivals."""

    def write(_: Tasks, folder: Path) -> None:
        merge(adapters, folder / BUNDLE, harm=limit, look=look)

    return Compressor(METHOD, f"harm {limit}", write, read_bundle)


def counts(
    adapter: Adapter, methods: Mapping[str, ReadBack], scorer: Scorer
) -> dict[str, tuple[int, int]]:
    """Return by method how many answers change, and of how many."""
    said, reference = scorer.reference(adapter, *scorer.asked(scorer.rows_of(adapter)))
    found = dict[str, tuple[int, int]]()
    for label, read in methods.items():
        drift = drift_of(scorer.loaded[0], reference, read[adapter.name])
        found[label] = drift.changed, len(said)
    return found


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--limits", nargs="+", default=["1%", "2%"], metavar="SHARE")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of adapters to merge")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="of a task")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    if odd := [limit for limit in args.limits if not limit.endswith("%")]:
        parser.error(f"--limits {odd[0]}: a share of the answers, such as 1%")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    args = _arguments(arguments)
    recipe, adapters = read_recipe(recipe_of(args.set)), original_adapters(args.set)
    adapters = [x for x in adapters if fnmatchcase(x.name, args.only)]
    if not adapters:
        raise SystemExit(f"no adapter of {args.set} matches {args.only}")
    prompts = {x.name: real_prompts(x, args.tasks, args.prompts, args.prompts) for x in adapters}
    code, inputs, asked = package_hash(), inputs_of(adapters), prompts_hash(prompts)
    head = provenance(f"{args.set}: is a limit on harm kept on new rows", seed=0)
    head |= {"set": args.set, "only": args.only, "count": args.rows, "prompts": args.prompts}
    head |= {"code": code, "inputs": inputs, "asked": asked}
    file = args.output / f"{args.set}.harm-kept.json"
    begun(file, head, _SAME)
    base = str(base_folder(recipe.base))
    scorer = Scorer(args.tasks, args.rows, load_model(base))
    look = AnswerJudge(base, adapters, prompts, loaded=scorer.loaded).look
    rows = {limit: limited(adapters, limit, look) for limit in args.limits}
    parent = ROOT / "build" / "harm-kept" / f"{args.set}-{code}-{inputs}-{asked}"
    methods = packed([*rows.values()], tasks_of(adapters), parent)
    fp16 = 2 * sum(x.numbers for x in adapters)
    for adapter in adapters:
        of, done = scorer.rows_of(adapter).sha256, begun(file, head, _SAME)
        mine = [x for x in done if x["adapter"] == adapter.name]
        if any(x["of"] != of for x in mine):
            raise SystemExit(f"{file.name} has other rows of {adapter.name}; remove it first")
        todo = {x: rows[x].label for x in args.limits if x not in {y["limit"] for y in mine}}
        if not todo:
            continue
        found = counts(adapter, {x: methods[x] for x in todo.values()}, scorer)
        measured = list[dict[str, Any]]()
        for limit, label in todo.items():
            size = methods[label].bytes
            row = {"adapter": adapter.name, "limit": limit, "of": of, "bytes": size}
            row |= {"share": round(size / fp16, 6)}
            measured.append({**row, **kept(*found[label], float(limit.rstrip("%")) / 100)})
            print(measured[-1], flush=True)
        append_rows(file, head, _SAME, measured, ("adapter", "limit"))
