"""Result files to the speed in README and the first comparison in docs/evidence.md.

    python benchmarks/report.py [--check]

Reads benchmarks/results, rewrites what stands between the pages' marks and draws
docs/pictures/recovery.png. ``--check`` changes nothing and fails where a page differs. The scores
of the evidence sets are benchmarks/quality/evidence_report.py's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "evidence.md")
PICTURE = ROOT / "docs" / "pictures" / "recovery.png"

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
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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


def speed(result: Mapping[str, Any]) -> str:
    def of(what: str, data: str = "adapters") -> Row:
        return next(r for r in result["rows"] if r["what"] == what and r["data"].startswith(data))

    merged, wide = of("merge"), of("merge", "synthetic, width 4096")
    peers = {name: of(name) for name in ("lorashare", "peft svd")}
    wide_peers = {name: of(name, "synthetic, width 4096") for name in peers}
    memory, opened = of("memory"), of("read back: opened")
    return (
        f"Merging seven rank-16 adapters of Gemma-3-270M takes {merged['wall']:.1f} s on two "
        f"cores: {merged['wall_ratio_float64']:.1f} times as long as reading the files, a QR of "
        "each module and a write; "
        f"lorashare takes {peers['lorashare']['wall_ratio']:.1f} times and "
        f"PEFT's svd merge {peers['peft svd']['wall_ratio']:.1f} times our time, at width 4096 "
        f"{wide_peers['lorashare']['wall'] / wide['wall']:.0f} and "
        f"{wide_peers['peft svd']['wall'] / wide['wall']:.0f} times. A task reads back at "
        f"{opened['cpu_mnps']:.0f} million numbers a second on one core once the bundle is open "
        f"({of('read back: cold')['cpu_mnps']:.0f} million the first time). Peak memory is "
        f"{memory['peak_less_inputs_mib']:.0f} MiB above the inputs "
        "(`benchmarks/results/speed.json`).\n"
    )


INTRO = """\
Seven rank-16 adapters of Gemma-3-270M (q, k, v, o; numbers in words, dates, tags, corrections,
translation), {rows} held-out rows each. Recovery is (loss of the base - loss from the bundle) /
(loss of the base - loss of the original adapter), each task counted as 100 % at most. Everything in
the file counts as bytes (`benchmarks/results/curve-gemma.json`)."""
OTHERS = """\
Others on the same adapters, and what hydraopt needs for the same mean recovery, between the sizes
above (log-linear):"""
ALONE = """\
What each form does alone, mean / worst recovery in percent, on these adapters and on the eight in
`examples/` (`curve-examples.json`):"""


def wrapped(text: str) -> str:
    whole = " ".join(text.split())
    lines = textwrap.wrap(whole, 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def block() -> str:
    gemma, examples = read("curve-gemma"), read("curve-examples")
    return "\n".join(
        [
            wrapped(INTRO.format(rows=gemma["rows_per_task"])),
            sizes(gemma),
            "![Recovery against size](pictures/recovery.png)\n",
            wrapped(OTHERS),
            rivals(gemma["rows"]),
            wrapped(ALONE),
            forms({"Gemma": gemma, "examples": examples}),
        ]
    )


SECTIONS: Mapping[str, Callable[[], str]] = {
    "results": block,
    "speed": lambda: wrapped(speed(read("speed"))),
}


def filled(page: str, sections: Mapping[str, Callable[[], str]]) -> str:
    """The page with what stands between the marks of these sections made anew."""
    for name, make in sections.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if start in page:
            before, rest = page.split(start, 1)
            page = before + start + make() + end + rest.split(end, 1)[1]
    return page


def rewrite(pages: Sequence[Path], sections: Mapping[str, Callable[[], str]], check: bool) -> None:
    """Fill the sections of every page; with ``check``, SystemExit where one would change."""
    for path in pages:
        page = path.read_text(encoding="utf-8")
        new = filled(page, sections)
        if not check:
            path.write_text(new, encoding="utf-8")
        elif new != page:
            raise SystemExit(f"{path.name} differs from the result files; run this script")


def draw() -> None:
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
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rewrite(PAGES, SECTIONS, args.check)
    if not args.check:
        draw()


if __name__ == "__main__":
    main()
