"""How far should what a few prompts say move the bytes of a size?

    python -m benchmarks.quality part_way SET --tasks TASKS [--size 5%] [--prompts 24] [--fresh 32]

Merges a set to one size with harm measured on the first validation rows of each task, and shares
the bytes out none, half and all of the way to what these say; and once without any prompts. Harm of
every bundle is then measured on the validation rows that follow, which no merge saw. A run that was
cut off goes on. The result is benchmarks/results/quality/SET.part-way.json: for each bundle the
means over the tasks, each task, and how far the others are from the one of half the way.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, save_json
from benchmarks.quality.evidence import merged, original_adapters, request_for, those_of
from benchmarks.quality.harness.drifting import FreshRows, harms
from benchmarks.quality.harness.options import add_study
from benchmarks.quality.sets import CURVES, JUDGED, METHOD, Method
from hydraopt.bundle.harm import Harm
from hydraopt.harm import sharing
from hydraopt.harm.drift import Summary
from hydraopt.harm.trials import Counted
from hydraopt.merging.look import MeasuredHarm

__all__ = ["WAYS", "main", "row_of"]

WAYS = {"none": 0.0, "half": 0.5, "all": 1.0}
"""How far prices go to what the prompts say."""
_PLAIN = "without"
_LIKE = "half"


def _half_at(share: float, prompts: int) -> float:
    """How many answers would be trusted half, if ``prompts`` of them are trusted this much."""
    return prompts * (1 - share) / share if share else math.inf


def _merged(args: argparse.Namespace, adapters: Sequence[Any]) -> dict[str, tuple[Path, Any]]:
    """By way, the bundle and what its merge said."""
    place = f"{args.set}/part-way"
    judge = {"split": "validation", "count": args.prompts}
    made = {}
    for way, share in WAYS.items():
        method = Method(f"{CURVES}-{way}", args.size, {**JUDGED[CURVES], "judge": judge})
        with mock.patch.object(sharing, "TRUSTED_HALF", _half_at(share, args.prompts)):
            made[way] = merged(args.set, adapters, method, args.tasks, args.keep_bundles, place)
    plain = Method(METHOD, args.size)
    made[_PLAIN] = merged(args.set, adapters, plain, args.tasks, args.keep_bundles, place)
    return made


def row_of(
    said: Mapping[str, Any], mine: Mapping[str, Summary], like: Mapping[str, Summary]
) -> dict[str, Any]:
    """One row of the result. said: of the merge. mine, like: of this bundle and of the one that it
    is held against, by task."""
    lost = np.array([_lost(harm) for harm in mine.values()])
    apart = 100 * (lost - [_lost(like[name]) for name in mine])
    kl = np.array([harm.kl for harm in mine.values()])
    changed = np.array([harm.changed / harm.answers for harm in mine.values()])
    return {
        "bytes": said["bytes"],
        "size_pct": said["size_pct"],
        "code": said["code"],
        "changed_pct": round(100 * float(changed.mean()), 4),
        "likely_pct": round(100 * float(np.mean([x.likely for x in mine.values()])), 4),
        "lost_pct": round(100 * float(lost.mean()), 4),
        "lost_more_pct": round(float(apart.mean()), 4),
        "lost_more_error_pct": round(_error(apart), 4),
        "kl_answer": round(float(kl.mean()), 6),
        "kl_answer_geometric": round(float(np.exp(np.log(np.maximum(kl, 1e-12)).mean())), 6),
        "tasks": {
            name: {
                "answers": x.answers,
                "changed": x.changed,
                "lost_pct": round(100 * _lost(x), 4),
                "kl_answer": float(f"{x.kl:.6g}"),
            }
            for name, x in mine.items()
        },
    }


def _error(values: NDArray[np.float64]) -> float:
    """The standard error of the mean over tasks; that of one task cannot be told."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _lost(harm: Summary) -> float:
    """What a size is shared out by."""
    stated = Harm(harm.changed, harm.answers, harm.likely, harm.kl, True)
    judged = MeasuredHarm(stated, harm.likely_error, harm.kl_error, harm.lost)
    return Counted("lost").of(judged)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    add_study(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ADAPTER",
        help="merge these alone; * stands for any text; default all",
    )
    parser.add_argument("--size", default="5%")
    parser.add_argument("--prompts", type=int, default=24, help="rows of a task for the merges")
    parser.add_argument("--fresh", type=int, default=32, help="rows of a task after these")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = those_of(original_adapters(args.set), args.only)
    made = _merged(args, adapters)
    head = provenance(f"{args.set}: how far prompts should move a size", seed=0)
    place = ROOT / "build" / "evidence" / args.set / "part-way"
    bundles = {way: path for way, (path, _) in made.items()}
    rows = FreshRows(args.tasks, "validation", args.fresh, first=args.prompts)
    base = request_for(args.set, args.tasks, None, args.products).base
    found = harms(place, args.size.rstrip("%"), adapters, bundles, rows, base, args.products)
    seen = {name: told for name, told in found.items() if told}
    if not seen:
        raise SystemExit(f"there are no validation rows after the first {args.prompts}")
    results = {}
    for way, (_, said) in made.items():
        mine, like = ({name: told[x] for name, told in seen.items()} for x in (way, _LIKE))
        results[way] = row_of(said, mine, like)
        row = results[way]
        print(
            f"{way:8} {row['changed_pct']:7.3f} % change, {row['lost_pct']:.3f} % counted as lost, "
            f"{row['lost_more_pct']:+.3f} ± {row['lost_more_error_pct']:.3f} more than {_LIKE}"
        )
    about = {"size": args.size, "prompts": args.prompts, "fresh": args.fresh}
    about |= {"products": args.products, "without_fresh_rows": sorted(found.keys() - seen.keys())}
    about |= {"adapters": {x.name: x.content_hash() for x in adapters}}
    out = (args.out or QUALITY) / f"{args.set}.part-way.json"
    save_json(out, {**head, "set": args.set, **about, "results": results})
