"""Compare changed answers on prompts, and the likely share, with changed answers on new rows.

    python -m benchmarks.quality likely SET --tasks TASKS [--only ADAPTER ...] [--rows 150]

Merges a set to several sizes. For a few tasks and every size, harm is measured on 64 rows that the
adapter was trained on, on 64 that it was not (validation), and on test rows: answers that change,
the share that is likely to, and KL an answer. What the share would be if all that margins move
were noise stands beside it, as hydraopt once took them. Nothing is fitted, and no merge sees any
row. Saved after every task; a second call goes on: benchmarks/results/quality/SET.likely.json. It
refuses a result of other rows, products, adapters, task files or code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, package_hash, provenance, save_json
from benchmarks.quality.evidence import merged, original_adapters, request_for, those_of
from benchmarks.quality.harness.drifting import FreshRows, drifts
from benchmarks.quality.harness.options import add_set
from benchmarks.quality.harness.resumed import files_of, gone_on
from benchmarks.quality.sets import METHOD, Method
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.harm.drift import Drift

__all__ = ["SIZES", "main", "measured"]

SIZES = ("10%", "5%", "3%", "2%")
_FEW = (
    "number_words-fr",
    "sentiment-de",
    "sentiment-es",
    "sentiment-hi",
    "slot_filling-tr",
    "text_correction-de",
)
_PROMPTS = 64


def _as_noise(drift: Drift) -> float:
    """The share of answers that would change, were all that margins move noise of one size."""
    near = np.exp(-np.square(drift.margin) / (9 * max(np.square(drift.moved).mean(), 1e-300)))
    size = np.sqrt(near @ np.square(drift.moved) / max(near.sum(), 1e-300))
    chance = np.minimum(ndtr(-drift.margin / max(size, 1e-300)), 1 - 1e-9)
    return float(-np.expm1(np.bincount(drift.row, np.log1p(-chance), drift.answers)).mean())


def measured(
    loaded: tuple[Any, Any],
    adapter: Adapter,
    bundles: dict[str, Bundle],
    tasks: Path,
    rows: dict[str, int],
) -> list[dict[str, Any]]:
    """One row a split and size."""
    found = []
    for split, count in rows.items():
        drifted = drifts(loaded, adapter, bundles, FreshRows(tasks, split, count))
        for size, drift in drifted.items():
            told = drift.summary()
            harm = told.harm
            found.append(
                {
                    "task": adapter.name,
                    "split": split,
                    "size": size,
                    "error": bundles[size][adapter.name].error,
                    "answers": harm.answers,
                    "changed": harm.changed,
                    "changed_pct": round(100 * harm.changed / harm.answers, 3),
                    "likely_pct": round(100 * harm.likely, 3),
                    "likely_error_pct": round(100 * told.likely_error, 3),
                    "as_noise_pct": round(100 * _as_noise(drift), 3),
                    "kl_answer": float(f"{harm.kl:.5g}"),
                    "kl_error": float(f"{told.kl_error:.5g}"),
                }
            )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    add_set(parser)
    parser.add_argument("--only", nargs="+", default=list(_FEW), metavar="ADAPTER")
    parser.add_argument("--rows", type=int, default=150, help="test rows of a task")
    parser.add_argument("--out", type=Path, help="instead of the set's result")
    args = parser.parse_args(arguments)
    adapters = original_adapters(args.set)
    wanted = those_of(adapters, args.only)
    splits = {"train": _PROMPTS, "validation": _PROMPTS, "test": args.rows}
    out = args.out or QUALITY / f"{args.set}.likely.json"
    made_of = {
        "set": args.set,
        "products": args.products,
        "sizes": SIZES,
        "splits": splits,
        "adapters": {x.name: x.content_hash() for x in adapters},
        "code": package_hash(),
    }
    before, made_of = gone_on(out, made_of, files_of(wanted, args.tasks, splits))
    rows = before.get("rows", [])
    known = {row["task"] for row in rows}
    head = {**provenance(f"{args.set}: harm on prompts against test rows", seed=0), **made_of}
    bundles = {
        size: open_bundle(merged(args.set, adapters, Method(METHOD, size), args.tasks)[0])
        for size in SIZES
    }
    loaded = load_model(request_for(args.set, args.tasks, None, args.products).base)
    for adapter in wanted:
        if adapter.name in known:
            continue
        with products_of(args.products):
            rows += measured(loaded, adapter, bundles, args.tasks, splits)
        save_json(out, {**head, "rows": rows})
        print(f"{adapter.name}: {len(rows)} rows", flush=True)
