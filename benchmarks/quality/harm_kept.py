"""Check on new rows whether merges keep their limits on harm.

    python -m benchmarks.quality harm_kept SET --tasks TASKS [--limits 1% 2%] [--prompts 64]

Merges a set with each limit, harm measured on prompts: the first rows of the validation split and
then of the training split. Then it counts how many of each original's own answers to the first rows
of the test split change. A task keeps the limit if their share is no larger; it surely breaks it if
even the lower end of the share's 95 % interval (Clopper and Pearson 1934) is larger. Saved after
each task; a second call continues, and refuses a result of other adapters, rows or code. Writes
benchmarks/results/quality/SET.harm-kept.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, begun, package_hash, provenance, save_json
from benchmarks.quality.equal_kl import Scene, row_values
from benchmarks.quality.few_prompts import real_prompts
from benchmarks.quality.sets import inputs_of, original_adapters, recipe_of
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import load_model
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.harm.drift import drift_of, reference_of
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.merge import merge
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["interval", "kept", "main"]

_SAME = ("count", "prompts", "code", "inputs")
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


def rows_of(
    adapter: Adapter, bundles: Mapping[str, tuple[Bundle, Mapping[str, Any]]], scene: Scene
) -> list[dict[str, Any]]:
    """Return a row for each limit. bundles: by limit, with what is said of the merge."""
    model, original = scene.loaded[0], {path: x.factors() for path, x in adapter.modules.items()}
    asked, most = scene.asked(scene.rows_of(adapter))
    said = scene.written(asked, [original] * len(asked), most)
    reference, rows = reference_of(model, said, original), []
    for limit, (bundle, about) in bundles.items():
        factors = bundle[adapter.name].factors()
        given = {path: (x.B.astype("f4"), x.A.astype("f4")) for path, x in factors.items()}
        values = np.array(row_values(drift_of(model, reference, given)))
        told = kept(int(values[:, 0].sum()), len(values), float(limit.rstrip("%")) / 100)
        rows.append({"adapter": adapter.name, "limit": limit, **about, **told})
        print(adapter.name, limit, told, flush=True)
    return rows


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--limits", nargs="+", default=["1%", "2%"], metavar="SHARE")
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
    code, inputs = package_hash(), inputs_of(adapters)
    head = provenance(f"{args.set}: is a limit on harm kept on new rows", seed=0)
    head |= {"set": args.set, "count": args.rows, "prompts": args.prompts}
    head |= {"code": code, "inputs": inputs}
    file = args.output / f"{args.set}.harm-kept.json"
    begun(file, head, _SAME)
    base = str(base_folder(recipe.base))
    scene = Scene(args.tasks, args.rows, load_model(base))
    prompts = {x.name: real_prompts(x, args.tasks, args.prompts) for x in adapters}
    judge = AnswerJudge(base, adapters, prompts, loaded=scene.loaded)
    place, bundles = ROOT / "build" / "harm-kept" / f"{args.set}-{code}-{inputs}", {}
    place.mkdir(parents=True, exist_ok=True)
    for limit in args.limits:
        path = place / f"{limit.replace('%', 'pct')}-{args.prompts}.hydra.safetensors"
        if not path.is_file():
            merge(adapters, path, harm=limit, look=judge.look)
        size = path.stat().st_size
        share = size / (2 * sum(x.numbers for x in adapters))
        bundles[limit] = open_bundle(path), {"bytes": size, "share": round(share, 6)}
    for adapter in adapters:
        rows = begun(file, head, _SAME)
        done = {x["limit"] for x in rows if x["adapter"] == adapter.name}
        todo = {limit: x for limit, x in bundles.items() if limit not in done}
        if todo:
            rows += rows_of(adapter, todo, scene)
            save_json(file, {**head, "rows": rows}, "rows")
