"""Measure refits from few real prompts, with synthetic ones beside them, against many real ones.

    python -m benchmarks.quality few_prompts gemma3-5x8 --tasks TASKS --only sentiment-es ...

Each adapter of SET is merged alone at --size: "0" without prompts, and with each of --counts real
prompts, the first rows of the validation split and then of the training split. KL to the original
is teacher-forced, in nats an answer, on the first rows of the test split, which no prompt is from.
The gain of a count is what it takes from the KL without prompts, as a share of what the largest
count takes. Saved after each task; a second call continues.
Writes benchmarks/results/quality/SET.few-prompts.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.sets import original_adapters, recipe_of
from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import prompt_text
from hydraopt.basemodel.model import load_model
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.run import encode_task, run_task
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.look import Look
from hydraopt.merging.merge import merge
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["gains", "main", "prompts_hash", "real_prompts"]

Result = dict[str, Any]
_DRAWS: Final = 10_000


def real_prompts(adapter: Adapter, tasks: Path, count: int) -> Sequence[str]:
    """Return the adapter's first prompts: rows it has not seen, then rows it was trained on."""
    name, language, _ = named_task(adapter.name, adapter.source.parent, tasks)
    files = [read_task_file(tasks, name, language, split) for split in ("validation", "train")]
    fresh, trained = ([prompt_text(x.instruction, row.input) for row in x.rows] for x in files)
    return list(dict.fromkeys([*fresh[:64], *trained]))[:count]


def prompts_hash(prompts: Mapping[str, Sequence[str]]) -> str:
    """Return a hash of the prompts of some tasks."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]


def merged(adapter: Adapter, count: int, args: argparse.Namespace) -> tuple[Any, Result]:
    """Return the factors of the adapter from its bundle, and what was done."""
    path = args.place / "one.hydra.safetensors"
    judge, look = None, Look()
    if count:
        prompts = real_prompts(adapter, args.tasks, count)
        judge = AnswerJudge(
            args.base, [adapter], {adapter.name: prompts}, refits=True, loaded=args.loaded
        )
        look = judge.look
    result = merge([adapter], path, size=args.size, workers=1, look=look)
    task = open_bundle(path)[adapter.name]
    factors, harm = task.factors(), task.entry.harm
    about = {
        "bytes": result.size,
        "synthetic": len(judge.synthetic.get(adapter.name, ())) if judge else 0,
        "refitted": harm is not None and harm.held_out,
    }
    path.unlink()
    return {p: (x.B.astype("f4"), x.A.astype("f4")) for p, x in factors.items()}, about


def measured(adapter: Adapter, args: argparse.Namespace) -> dict[str, Result]:
    """Return bytes, KL and the KL of each row, by the number of real prompts."""
    name, language, _ = named_task(adapter.name, adapter.source.parent, args.tasks)
    data = read_task_file(args.tasks, name, language, "test")
    model, tokenizer = args.loaded
    items = encode_task(data, tokenizer, args.rows)
    sets: dict[str, Any] = {"original": {p: x.factors() for p, x in adapter.modules.items()}}
    found: dict[str, Result] = {}
    for count in (0, *args.counts):
        sets[str(count)], found[str(count)] = merged(adapter, count, args)
    scores = run_task(model, tokenizer, items, sets, "original", write=False)
    for count, result in found.items():
        kl = [float(x) for x in scores[count].divergence]
        result |= {"kl": sum(kl) / len(kl), "rows": [float(f"{x:.4g}") for x in kl]}
        print(f"{adapter.name} {count}: { ({**result, 'rows': len(kl)}) }", flush=True)
    return found


def mean_interval(values: Sequence[float]) -> list[float]:
    """Return the mean of some tasks' values, and the ends of its 95 % interval by a bootstrap."""
    every = np.array(values, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(every), (_DRAWS, len(every)))
    low, high = np.quantile(every[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (every.mean(), low, high)]


def gains(tasks: Mapping[str, Mapping[str, Result]]) -> dict[str, Result]:
    """Return by number of prompts the factor of KL and the share of the largest number's gain.

    The factor is the geometric mean over tasks with its 95 % interval, a bootstrap over tasks; the
    share is of the logarithms of KL, of the means.
    """
    counts = sorted({int(x) for results in tasks.values() for x in results})
    logs = {
        count: [
            float(np.log(x[str(count)]["kl"] / x["0"]["kl"]))
            for x in tasks.values()
        ]
        for count in counts[1:]
    }  # fmt: skip
    most = sum(logs[counts[-1]])
    return {
        str(count): {
            "kl_factor": [round(float(np.exp(x)), 3) for x in mean_interval(values)],
            "share_of_gain": round(sum(values) / most, 3) if most else None,
        }
        for count, values in logs.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these adapters of the set")
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 300])
    parser.add_argument("--size", default="3%")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    recipe = read_recipe(recipe_of(args.set))
    adapters = original_adapters(args.set)
    args.place = ROOT / "build" / "few-prompts"
    args.place.mkdir(parents=True, exist_ok=True)
    args.base = str(base_folder(recipe.base))
    args.loaded = load_model(args.base)
    file = args.output / f"{args.set}.few-prompts.json"
    head = provenance(f"{args.set}: KL after refits from few real prompts", seed=0)
    about = {"size": args.size, "count": args.rows, "code": package_hash()}
    known = json.loads(file.read_text()) if file.is_file() else {}
    same = all(known.get(key) == value for key, value in about.items())
    results: dict[str, dict[str, Result]] = known["tasks"] if same else {}
    for adapter in (x for x in adapters if not args.only or x.name in args.only):
        if any(str(count) not in results.get(adapter.name, {}) for count in args.counts):
            results[adapter.name] = measured(adapter, args)
            save_json(file, {**head, **about, "gains": gains(results), "tasks": results})
    print(json.dumps(gains(results)))
