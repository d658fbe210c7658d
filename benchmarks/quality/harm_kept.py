"""Check on new rows whether merges kept their limits on harm.

    python -m benchmarks.quality harm_kept SET --tasks TASKS [--limits 1% 2%] [--prompts-from train]
        [--merge ADAPTER ...] [--only ADAPTER ...]

Merges a set, or a few of its adapters, with each limit, harm measured on prompts, and counts on
fresh test rows how many of each original's own answers change. A task has kept the limit if their
share is no larger; it has broken it for sure if even the lower end of the share's 95 % interval
(Clopper and Pearson 1934) is larger. A run that was cut off goes on. The result is
benchmarks/results/quality/SET.harm-kept.json, or SET-NAME.harm-kept.json with ``--name NAME``, for
limits that are scored apart; that of other adapters is not overwritten.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, save_json
from benchmarks.quality.evidence import (
    chosen,
    merged,
    original_adapters,
    request_for,
    result_name,
    those_of,
)
from benchmarks.quality.harness.bundlescores import score, scored
from benchmarks.quality.harness.judging import add_prompts
from benchmarks.quality.harness.options import add_study
from benchmarks.quality.sets import METHOD, Method
from hydraopt.adapters import Adapter
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.collection.opening import open_bundle

__all__ = ["interval", "kept", "main", "row_of"]


def interval(changed: int, answers: int) -> tuple[float, float]:
    """The share of answers that change, 95 %: exact for a binomial count."""
    from scipy.stats import binomtest

    found = binomtest(changed, answers).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def kept(changed: int, answers: int, limit: float) -> dict[str, Any]:
    """One task against the limit, a share in (0, 1): counts, percentages, whether it is kept."""
    low, high = interval(changed, answers)
    return {
        "changed": changed,
        "answers": answers,
        "changed_pct": round(100 * changed / answers, 3),
        "interval_pct": [round(100 * low, 3), round(100 * high, 3)],
        "kept": changed <= limit * answers + 1e-9,  # 0.7 % of 1,000 is seven
        "broken_for_sure": low > limit,
    }


def row_of(
    limit: str,
    said: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    label: str,
    promised: Mapping[str, Any],
) -> dict[str, Any]:
    """One row of the result: a limit such as "1%". said: of the merge. tasks: scored, as of
    hydraopt eval. promised: by task, what the bundle says of its harm. SystemExit where all tasks
    were skipped."""
    share = float(limit.rstrip("%")) / 100
    by_task = {}
    skipped = {task["adapter"]: task["skipped"] for task in tasks if "skipped" in task}
    for task in scored(tasks):
        one = task["results"][label]
        by_task[task["adapter"]] = {
            **kept(one["changed"], task["rows"], share),
            "kl_answer": one["kl_answer"],
            "promised": promised.get(task["adapter"]),
        }
    if not by_task:
        raise SystemExit(f"no task could be scored: {skipped}")
    return {
        "limit": limit,
        "code": said["code"],
        "bytes": said["bytes"],
        "size_pct": said["size_pct"],
        "tasks_kept": sum(x["kept"] for x in by_task.values()),
        "tasks_broken_for_sure": sum(x["broken_for_sure"] for x in by_task.values()),
        "tasks": len(by_task),
        "changed_pct": round(sum(x["changed_pct"] for x in by_task.values()) / len(by_task), 4),
        "by_task": by_task,
        **({"skipped": skipped} if skipped else {}),
        **({"cut": said["cut"]} if said.get("cut") else {}),
    }


def promises(path: Path) -> dict[str, Any]:
    """By task, the harm that a bundle's manifest states; None where it states none."""
    stated = {task.name: task.harm for task in open_bundle(path).manifest.tasks}
    return {
        name: harm
        and {
            "changed": harm.changed,
            "answers": harm.answers,
            "likely_pct": round(100 * harm.likely, 4),
            "kl_answer": harm.kl,
            "held_out": harm.held_out,
        }
        for name, harm in stated.items()
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    add_study(parser)
    parser.add_argument("--limits", nargs="+", default=["1%", "2%"], metavar="SHARE")
    parser.add_argument("--rows", type=int, help="at most so many test rows of a task")
    parser.add_argument(
        "--merge",
        nargs="+",
        default=[],
        metavar="ADAPTER",
        help="merge these alone; * stands for any text; default all",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ADAPTER", help="score these")
    add_prompts(parser)
    parser.add_argument(
        "--answer-tokens", type=int, default=ANSWER_TOKENS, help="of an answer that are judged"
    )
    parser.add_argument("--name", default="", help="saved as SET-NAME.harm-kept.json")
    args = parser.parse_args(arguments)
    odd = [limit for limit in args.limits if not limit.endswith("%")]
    if odd:
        parser.error(f"--limits {odd[0]}: a share of the answers, such as 1%")
    return args


def _refuse_others(out: Path, adapters: Sequence[Adapter], args: argparse.Namespace) -> None:
    """SystemExit where a result is there of other adapters than these, of other limits or
    prompts: before anything is merged."""
    if not out.is_file():
        return
    known = json.loads(out.read_text(encoding="utf-8"))
    if known["adapters"] != {adapter.name: adapter.content_hash() for adapter in adapters}:
        raise SystemExit(
            f"{out.name} is of {len(known['adapters'])} adapters, and not of these "
            f"{len(adapters)}; remove it first, or give --name or --out"
        )
    there = [[row["limit"] for row in known["rows"]], known["prompts_from"], known["prompts"]]
    if there != [args.limits, args.prompts_from, args.prompts]:
        raise SystemExit(
            f"{out.name} is of other limits or prompts: {there[0]}, {there[2]} {there[1]} rows; "
            "remove it first, or give --name or --out"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = those_of(original_adapters(args.set), args.merge)
    out = (args.out or QUALITY) / f"{result_name(args.set, args.name)}.harm-kept.json"
    _refuse_others(out, adapters, args)
    asked: dict[str, Any] = {"split": args.prompts_from, "count": args.prompts}
    if args.answer_tokens != ANSWER_TOKENS:
        asked["answer_tokens"] = args.answer_tokens
    options: dict[str, Any] = {"judge": asked, "sensitivity": "prompts"}
    methods = [Method(METHOD, f"harm {limit}", options) for limit in args.limits]
    # Beside the bundles of whole sets, which have the same names.
    place = f"{args.set}/harm-kept"
    made = [merged(args.set, adapters, x, args.tasks, args.keep_bundles, place) for x in methods]
    head = provenance(f"{args.set}: is a limit of harm kept on fresh rows", seed=0)
    request = request_for(args.set, args.tasks, args.rows, args.products)
    only = chosen([adapter.name for adapter in adapters], args.only)
    named = f"harm-kept-{args.name}" if args.name else "harm-kept"
    state = ROOT / "build" / "evidence" / place / f"{named}.scores.json"
    # What the base says has no part in what is counted, and takes a quarter of the time.
    request = replace(request, only=only, with_base=False)
    result = score(state, adapters, made, request, {"set": args.set})
    rows = []
    for limit, (path, said) in zip(args.limits, made, strict=True):
        rows.append(row_of(limit, said, result["tasks"], path.name, promises(path)))
        row = rows[-1]
        print(
            f"harm {limit}: {row['size_pct']:.2f} % of fp16, kept by {row['tasks_kept']} of "
            f"{row['tasks']} tasks, broken for sure by {row['tasks_broken_for_sure']}"
        )
    about = {key: result[key] for key in ("limits", "products", "adapters", "seconds")}
    about |= {"prompts_from": args.prompts_from, "prompts": args.prompts}
    about |= {"answer_tokens": args.answer_tokens}
    save_json(out, {**head, "set": args.set, **about, "rows": rows})
