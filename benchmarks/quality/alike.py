"""Compare losses of tasks and languages with and without --fair, at equal bytes.

    python -m benchmarks.quality alike SET --of 'sentiment-*' 'slot_filling-*' --tasks TASKS
        [--only 'slot_filling-*' --rows 80 --name slots]

The adapters that ``--of`` names are merged by themselves, at 5 and at 2 % of fp16: without
prompts, with bytes shared out by measured harm, and with the same harm and ``--fair``, where the
worst task loses least. The prompts are inputs of rows that no score is taken on. Then base,
originals and bundles answer the test rows. The result, benchmarks/results/quality/SET.alike.json,
has the schema of evidence.py, but a part of the set is not the set: no table of sets takes it. It
is saved after every task, and a second call goes on, with others of ``--only`` too; with ``--name``
some may have other rows, in a file of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance
from benchmarks.quality.evidence import (
    chosen,
    merged,
    methods_of,
    original_adapters,
    request_for,
    result_name,
    those_of,
)
from benchmarks.quality.harness.bundlescores import score
from benchmarks.quality.harness.judging import add_prompts
from benchmarks.quality.harness.options import add_set
from benchmarks.quality.sets import ALIKE

__all__ = ["main"]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    add_set(parser)
    parser.add_argument("--of", nargs="+", required=True, metavar="ADAPTER", help="* is any text")
    parser.add_argument("--rows", type=int, default=80, help="test rows of a task")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ADAPTER", help="score these alone"
    )
    parser.add_argument("--name", help="saved as SET-NAME.alike.json")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="instead of 5 and 2 %%")
    add_prompts(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    every = original_adapters(args.set)
    adapters = those_of(every, args.of)
    methods = methods_of(ALIKE, args.sizes or (), args.prompts_from, args.prompts)
    place = f"{args.set}.{ALIKE}"
    made = [merged(args.set, adapters, method, args.tasks, place=place) for method in methods]
    scored = chosen([adapter.name for adapter in adapters], args.only)
    request = replace(request_for(args.set, args.tasks, args.rows, args.products), only=scored)
    origin = provenance(f"{args.set}: plain, curves and fair", seed=request.seed)
    extra = {
        "set": f"{args.set}, {len(adapters)} of {len(every)}",
        "plan": ALIKE,
        "prompts": args.prompts,
        "command": origin["command"],
        "hardware": origin["hardware"],
    }
    named = result_name(args.set, args.name)
    score(QUALITY / f"{named}.{ALIKE}.json", adapters, made, request, extra)
