"""How many prompts does it take to share bytes out by harm, and must they be fresh?

    python -m benchmarks.quality prompts_needed SET --tasks TASKS [--only ADAPTER ...] [--size 3%]

Merges a few adapters of a set to one size: by norms, without prompts, and with harm measured on 8,
24, 64 and 200 prompts of each task, of rows that the adapter was trained on and of fresh ones (its
validation rows, as many as there are). Of every bundle it is measured which of the originals' own
answers to the same test rows change; nothing else is scored. ``--refit`` fits what is kept to the
prompts as well. A run that was cut off goes on. The result is
benchmarks/results/quality/SET.prompts-needed.json, with ``--refit`` SET.prompts-needed.refit.json:
answers that change and KL an answer of every bundle, in all and task by task.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, save_json
from benchmarks.quality.evidence import merged, original_adapters, request_for, those_of
from benchmarks.quality.harness.drifting import FreshRows, harms
from benchmarks.quality.harness.judging import SPLITS
from benchmarks.quality.harness.options import add_study
from benchmarks.quality.sets import CURVES, JUDGED, METHOD, REFIT, SETS, Method
from hydraopt.adapters import Adapter
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.evaluate.taskfile import read_task_file, task_of
from hydraopt.harm.drift import Summary

__all__ = ["COUNTS", "main", "methods_of", "row_of"]

COUNTS = (8, 24, 64, 200)
_FEW = (
    "date_format-en",
    "number_words-es",
    "sentiment-fr",
    "slot_filling-tr",
    "text_correction-de",
)
"""Of the forty: one of each application."""


def methods_of(size: str, counts: Sequence[int], refit: bool) -> list[Method]:
    """Without prompts, then every count of both kinds."""
    methods = [Method(METHOD, size)]
    name = REFIT if refit else CURVES
    for split in SPLITS:
        for count in counts:
            options = {**JUDGED[name], "judge": {"split": split, "count": count}}
            methods.append(Method(f"{name}-of-{count}-{split}", size, options))
    return methods


def row_of(
    method: Method,
    said: Mapping[str, Any],
    harms: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, int],
) -> dict[str, Any]:
    """One row of the result. said: of the merge. harms: by task. given: rows of the split by
    adapter; where it has fewer than were asked for, all are taken."""
    asked = method.options.get("judge")
    by_task = {
        name: {"prompts": min(asked["count"], given[name]) if asked else 0, **harm}
        for name, harm in harms.items()
    }
    count = len(by_task)
    return {
        "prompts_from": asked["split"] if asked else None,
        "prompts": asked["count"] if asked else 0,
        "bytes": said["bytes"],
        "size_pct": said["size_pct"],
        "changed_pct": round(sum(x["changed_pct"] for x in by_task.values()) / count, 4),
        "kl_answer": round(sum(x["kl_answer"] for x in by_task.values()) / count, 6),
        "tasks": by_task,
    }


def _told(harm: Summary) -> dict[str, Any]:
    share = round(100 * harm.changed / harm.answers, 4)
    return {
        "answers": harm.answers,
        "changed": harm.changed,
        "changed_pct": share,
        "kl_answer": float(f"{harm.kl:.6g}"),
    }


def _given(adapters: Sequence[Adapter], tasks: Path, split: str) -> dict[str, int]:
    """How many rows of the split there are, by adapter."""
    count = {}
    for adapter in adapters:
        task, language = task_of(adapter.name, adapter.source.parent, tasks)
        count[adapter.name] = len(read_task_file(tasks, task, language, split).rows)
    return count


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    add_study(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ADAPTER",
        help="these alone; * stands for any text; default: five of the forty, all of other sets",
    )
    parser.add_argument("--size", default="3%")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, metavar="N")
    parser.add_argument("--rows", type=int, default=300, help="test rows of a task")
    parser.add_argument("--refit", action="store_true")
    args = parser.parse_args(arguments)
    if not args.only and args.set == SETS[0]:
        args.only = list(_FEW)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = those_of(original_adapters(args.set), args.only)
    methods = methods_of(args.size, args.counts, args.refit)
    # Beside the bundles of whole sets, which have the same names.
    place = f"{args.set}/prompts-needed"
    made = [
        merged(args.set, adapters, method, args.tasks, args.keep_bundles, place)
        for method in methods
    ]
    kind = "prompts-needed.refit" if args.refit else "prompts-needed"
    head = provenance(f"{args.set}: harm by number and kind of prompts", seed=0)
    asked = ROOT / "build" / "evidence" / place, f"{kind}-{args.size.rstrip('%')}"
    rows_asked = FreshRows(args.tasks, "test", args.rows)
    base = request_for(args.set, args.tasks, None, args.products).base
    bundles = {path.name: path for path, _ in made}
    found = harms(*asked, adapters, bundles, rows_asked, base, args.products)
    given = {split: _given(adapters, args.tasks, split) for split in SPLITS}
    rows = []
    for method, (path, said) in zip(methods, made, strict=True):
        split = method.options.get("judge", {}).get("split", SPLITS[0])
        mine = {name: _told(told[path.name]) for name, told in found.items()}
        rows.append(row_of(method, said, mine, given[split]))
        shown = f"{rows[-1]['prompts']:4} {rows[-1]['prompts_from'] or 'none':10}"
        print(f"{shown} {rows[-1]['changed_pct']:7.3f} %  {rows[-1]['kl_answer']:.5f} nats")
    about = {"products": args.products, "answer_tokens": ANSWER_TOKENS}
    about |= {"adapters": {x.name: x.content_hash() for x in adapters}}
    count = {name: x["answers"] for name, x in rows[0]["tasks"].items()}
    out = (args.out or QUALITY) / f"{args.set}.{kind}.json"
    save_json(out, {**head, "set": args.set, **about, "test_rows": count, "rows": rows})
