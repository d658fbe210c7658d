"""Measure refits from few real prompts, with synthetic ones beside them, against many real ones.

    python -m benchmarks.quality few_prompts gemma3-5x8 --tasks TASKS --only sentiment-es ...

Each adapter of SET is merged alone at --size, without prompts and with each of --counts real
prompts: the first rows of the validation split, 64 at most, and then of the training split. Of
every row, the first ones of the test split, the result has whether the answer changes and its KL,
as in ``equal_kl``. Saved after each adapter; a second call continues, and refuses a result of other
adapters, rows, prompts or code. Writes benchmarks/results/quality/SET.few-prompts.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, append_rows, begun, package_hash, provenance
from benchmarks.quality.equal_kl import Scorer, row_values
from benchmarks.quality.prompts import prompts_hash, real_prompts
from benchmarks.quality.sets import inputs_of, original_adapters, recipe_of
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import TaskFactors, load_model
from hydraopt.collection.opening import open_bundle
from hydraopt.harm.drift import drift_of
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.look import Look
from hydraopt.merging.merge import merge
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["main"]

Row = dict[str, Any]
_SAME = ("set", "size", "count", "code", "inputs")
"""What a result that is continued may not have changed."""


def merged(
    adapter: Adapter, prompts: Sequence[str], size: str, base: str, loaded: tuple[Any, Any]
) -> tuple[TaskFactors, Row]:
    """Return the factors of the adapter from its bundle, and what was done."""
    judge, look = None, Look()
    if prompts:
        judge = AnswerJudge(base, [adapter], {adapter.name: prompts}, refits=True, loaded=loaded)
        look = judge.look
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "one.hydra.safetensors"
        result = merge([adapter], path, size=size, workers=1, look=look)
        bundle = open_bundle(path)
        factors = bundle[adapter.name].factors()
        about = {
            "bytes": result.size,
            "synthetic": len(judge.synthetic.get(adapter.name, ())) if judge else 0,
            "refitted": bool(bundle.recipe.get("refit")),
        }
    return {p: (x.B.astype("f4"), x.A.astype("f4")) for p, x in factors.items()}, about


def measured(
    adapter: Adapter, counts: Sequence[int], args: argparse.Namespace, base: str, scorer: Scorer
) -> list[Row]:
    """Return a row for each number of real prompts, 0 for none."""
    file = scorer.rows_of(adapter)
    _, reference = scorer.reference(adapter, *scorer.asked(file))
    rows = []
    for count in counts:
        prompts = real_prompts(adapter, args.tasks, count)
        factors, about = merged(adapter, prompts, args.size, base, scorer.loaded)
        values = row_values(drift_of(scorer.loaded[0], reference, factors))
        row = {"adapter": adapter.name, "prompts": count, "of": file.sha256}
        row["asked"] = prompts_hash({adapter.name: prompts})
        rows.append({**row, **about, "values": values})
        kl = sum(x for _, x in values) / len(values)
        print({**row, **about, "kl": kl}, flush=True)
    return rows


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these adapters of the set")
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 300])
    parser.add_argument("--size", default="3%")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--output", type=Path, default=QUALITY)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    args = _arguments(arguments)
    recipe, adapters = read_recipe(recipe_of(args.set)), original_adapters(args.set)
    head = provenance(f"{args.set}: harm after refits from few real prompts", seed=0)
    head |= {"set": args.set, "size": args.size, "count": args.rows}
    head |= {"code": package_hash(), "inputs": inputs_of(adapters)}
    file = args.output / f"{args.set}.few-prompts.json"
    begun(file, head, _SAME)
    base = str(base_folder(recipe.base))
    scorer = Scorer(args.tasks, args.rows, load_model(base))
    for adapter in (x for x in adapters if not args.only or x.name in args.only):
        done = begun(file, head, _SAME)
        mine = {x["prompts"]: x for x in done if x["adapter"] == adapter.name}
        if any(x["of"] != scorer.rows_of(adapter).sha256 for x in mine.values()):
            raise SystemExit(f"{file.name} has other rows of {adapter.name}; remove it first")
        for count, row in mine.items():
            asked = {adapter.name: real_prompts(adapter, args.tasks, count)}
            if row["asked"] != prompts_hash(asked):
                raise SystemExit(f"{file.name}: other prompts of {adapter.name}; remove it first")
        if todo := [x for x in (0, *args.counts) if x not in mine]:
            rows = measured(adapter, todo, args, base, scorer)
            append_rows(file, head, _SAME, rows, ("adapter", "prompts"))
