"""The first comparison: seven adapters of one base, every form alone, and rivals, in recovery."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS", "bytes_at", "draw"]

_PICTURE = "recovery.png"

Row = Mapping[str, Any]

FORMS = ("all", "private", "shared-input", "shared-output", "two-sided", "predicted")
RIVALS = (
    ("group", "4 bit", "4-bit group rounding"),
    ("group", "3 bit", "3-bit group rounding"),
    ("group", "2 bit", "2-bit group rounding"),
    ("svd", "25 %", "truncated SVD, fp16"),
    ("lorashare", "k=32 fp16", "lorashare 0.1.3, k = 32, fp16"),
    ("vlora", "k=2 fp16, fp32 copies", "vlora-dev 1.0.0, k = 2, fp16"),
)


def read(name: str) -> Any:
    return json.loads((QUALITY / f"{name}.json").read_text(encoding="utf-8"))


def find(rows: Sequence[Row], method: str, setting: str) -> Row:
    return next(row for row in rows if (row["method"], row["setting"]) == (method, setting))


def bytes_at(rows: Sequence[Row], recovery: float) -> float | None:
    """Percent of the fp16 bytes at which the choice per module recovers so much in the mean.

    Log-linear between the measured sizes that enclose it; None beyond the largest.
    """
    ours = sorted((r["size_pct"], r["mean_recovery"]) for r in rows if r["method"] == "all")
    if recovery <= ours[0][1]:
        return float(ours[0][0])
    for (size, low), (more, high) in itertools.pairwise(ours):
        if low < recovery <= high:
            lost, least, wanted = (math.log(100 - x) for x in (low, high, recovery))
            share = (lost - wanted) / (lost - least)
            return math.exp(math.log(size) + share * (math.log(more) - math.log(size)))
    return None


def sizes(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`--size {row['setting']}`",
            f"{row['bytes']:,}",
            f"{row['size_pct']:.2f} %",
            f"{sum(row['errors'].values()) / len(row['errors']):.3f}",
            f"{row['mean_recovery']:.2f} %",
            f"{row['worst_recovery']:.2f} %",
        ]
        for row in sorted(result["rows"], key=lambda row: row["bytes"])
        if row["method"] == "all"
    ]
    return table(["bundle", "bytes", "of fp16", "error", "mean recovery", "worst task"], rows)


def forms(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for form in FORMS:
        row = ["the choice per module" if form == "all" else f"{form} alone"]
        for result in results.values():
            for size in ("5%", "2.5%"):
                found = find(result["rows"], form, size)
                row.append(f"{found['mean_recovery']:.2f} / {found['worst_recovery']:.2f}")
        rows.append(row)
    head = ["form", *(f"{name}, {size}" for name in results for size in ("5 %", "2.5 %"))]
    return table(head, rows)


def rivals(rows: Sequence[Row]) -> str:
    lines = []
    for method, setting, name in RIVALS:
        row = find(rows, method, setting)
        ours = bytes_at(rows, row["mean_recovery"])
        least = min(r["size_pct"] for r in rows if r["method"] == "all")
        lines.append(
            [
                name,
                f"{row['size_pct']:.1f} %",
                f"{row['mean_recovery']:.2f} %",
                f"{row['worst_recovery']:.2f} %",
                "-" if ours is None else f"{'under ' if ours <= least else ''}{ours:.1f} %",
                "-" if ours is None else f"{row['size_pct'] / ours:.1f}",
            ]
        )
    head = ["rival", "of fp16", "mean recovery", "worst task", "hydraopt needs", "factor"]
    return table(head, lines)


INTRO = """\
Seven rank-16 adapters of Gemma-3-270M (q, k, v, o; numbers in words, dates, tags, corrections,
translation), {rows} held-out rows each. Recovery is (loss of the base - loss from the bundle) /
(loss of the base - loss of the original adapter), each task counted as 100 % at most. Everything in
the file counts as bytes (`benchmarks/results/quality/curve-gemma.json`)."""
OTHERS = """\
Others on the same adapters, and what hydraopt needs for the same mean recovery, between the sizes
above (log-linear):"""
ALONE = """\
What each form does alone, mean / worst recovery in percent, on these adapters and on the eight in
`examples/` (`curve-examples.json`):"""


def block() -> str:
    gemma, examples = read("curve-gemma"), read("curve-examples")
    return "\n".join(
        [
            wrapped(INTRO.format(rows=gemma["rows_per_task"])),
            sizes(gemma),
            f"![Recovery against size](picture:{_PICTURE})\n",
            wrapped(OTHERS),
            rivals(gemma["rows"]),
            wrapped(ALONE),
            forms({"Gemma": gemma, "examples": examples}),
        ]
    )


SECTIONS = {"results": block}


def draw() -> None:
    """Recovery against size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    rows = read("curve-gemma")["rows"]
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axis = figure.subplots()
    styles = {
        "all": ("hydraopt", "#1f5fa8", "o-"),
        "group": ("group rounding (8, 4, 3, 2 bit)", "#d9762b", "s--"),
        "svd": ("truncated SVD, fp16", "#7a7a7a", "^--"),
        "lorashare": ("lorashare 0.1.3, fp16", "#3c9a5f", "D--"),
        "vlora": ("vlora-dev 1.0.0, fp16", "#8a5bb0", "v--"),
    }
    for method, (label, colour, style) in styles.items():
        mine = [r for r in rows if r["method"] == method]
        if method in ("lorashare", "vlora"):
            mine = [r for r in mine if " fp16" in r["setting"]]
        mine.sort(key=lambda r: r["size_pct"])
        for key, alpha, name in (("mean_recovery", 1.0, label), ("worst_recovery", 0.35, None)):
            lost = [max(100 - r[key], 0.005) for r in mine]
            axis.plot(
                [r["size_pct"] for r in mine], lost, style, color=colour, alpha=alpha, label=name
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.invert_yaxis()
    plain = FuncFormatter(lambda x, _: f"{x:g} %")
    axis.xaxis.set_major_locator(FixedLocator([2.5, 5, 10, 20, 50, 100]))
    axis.xaxis.set_minor_locator(FixedLocator([]))
    axis.xaxis.set_major_formatter(plain)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 - y:.5g} %"))
    axis.set_xlabel("bytes on disk, of the adapters in fp16")
    axis.set_ylabel("recovered of the adapters' gain")
    axis.set_title("Seven adapters of Gemma-3-270M: mean over tasks (faint: worst task)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    pages.PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(pages.PICTURES / _PICTURE, dpi=130)
