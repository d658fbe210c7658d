"""What was aimed at, beside what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.reports.equal_kl import pairs
from benchmarks.reports.factors import (
    LARGEST,
    Compared,
    Factor,
    geometric_mean,
    has_curve,
    says_nothing,
)
from benchmarks.reports.prompted import gains
from benchmarks.reports.same_rows import PROMPTED, Bounds, Cost, Result, results
from benchmarks.reports.tables import MISSING, table
from benchmarks.rivals.base import METHOD, WITH_PROMPTS

__all__ = ["SECTIONS", "aims"]

_SIZES: Final = ("10%", "5%", "3%", "2%")
_DROPS: Final[Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    "gemma3-5x8": {
        METHOD: {"10%": 0.2, "5%": 1.5},
        PROMPTED: {"10%": 0.0, "5%": 0.5, "3%": 0.7, "2%": 1.0},
    },
    "qwen25coder-code5": {PROMPTED: {"10%": 1.0, "5%": 4.0}},
    "qwen25coder15-mixed5": {PROMPTED: {"5%": 1.0}},
}
"""Largest mean drop that was aimed at, by set, method and size."""
_CODED: Final = {METHOD: 1.5, PROMPTED: 2.5}
"""Least bytes of the coded SVD over hydraopt's, likewise."""
_OTHERS: Final = 2.0
_FEWER: Final = 100 / 3
"""Percent fewer changed answers with prompts."""
Line = tuple[str, str, str, str, str, str]


def _drops(result: Result) -> Iterator[Line]:
    """Yield the aims for mean drops of a set, which may not be measured yet."""
    for method, sizes in _DROPS.get(result.set, {}).items():
        labels = result.of(method)
        for size, most in sizes.items():
            found, met = "not measured", "-"
            if size in labels:
                cost, bounds = Cost.of(result, labels[size]), Bounds.of(result, labels[size])
                found = f"{cost.drop:+.1f} % (at most {bounds.most:+.1f} %)"
                met = "no" if cost.drop > most else "in the mean" if bounds.most > most else "yes"
            what = f"mean drop{WITH_PROMPTS if method == PROMPTED else ''}"
            yield what, f"`{result.set}`", size, f"at most {most:.1f} %", found, met


def _coded(result: Result) -> Iterator[Line]:
    """Yield the aims for the bytes of the coded SVD, with the same prompts where it has them."""
    for mine, rival in pairs(result.methods):
        compared = {
            size: Compared.of(result, label, rival)
            for size, label in result.of(mine).items()
            if size in _SIZES
        }
        each = {size: x for size, x in compared.items() if x and not says_nothing(x.factors())}
        if each:
            what = f"bytes of {rival}, at equal KL"
            cells = [x.of_each_task().partition(" [")[0] for x in each.values()]
            wanted = f"{_CODED[mine]:.1f} times ours"
            met = _count([_reaches(x.factors(), _CODED[mine]) for x in each.values()])
            yield what, f"`{result.set}`", ", ".join(each), wanted, ", ".join(cells), met


def _reaches(factors: Sequence[Factor], wanted: float) -> bool:
    """Return whether their geometric mean is surely as large; an upper bound never is."""
    return geometric_mean(factors) >= wanted and not any(x.side > 0 for x in factors)


def _count(reached: Sequence[bool]) -> str:
    """Return at how many sizes an aim is met, in words if there is one size."""
    if len(reached) > 1:
        return f"{sum(reached)} of {len(reached)}"
    return "yes" if reached[0] else "no"


def _others(result: Result) -> Iterator[Line]:
    """Yield the aim for the bytes of rivals that do not code, with the one that takes fewest.

    Settings of which only a bound is known are left out.
    """
    found = []
    for label, about in result.methods.items():
        compared = Compared.of(result, label, METHOD)
        if has_curve(about["method"]) or about["share"] > LARGEST or compared is None:
            continue
        theirs = [x.inverse() for x in compared.factors()]
        if not any(x.side for x in theirs):
            name = f"{about['method']} {about['setting']}".strip()
            found.append((geometric_mean(theirs), name))
    if found:
        factor, name = min(found)
        what = "least bytes of rivals that do not code, at equal KL"
        wanted, met = f"{_OTHERS:.1f} times ours", _count([factor >= _OTHERS])
        yield what, f"`{result.set}`", "", wanted, f"{factor:.2f} ({name})", met


def _changed(result: Result) -> Iterator[Line]:
    """Yield the aim for changed answers with prompts."""
    fewer = {x.size: x.fewer for x in gains(result) if x.fewer is not None}
    if fewer:
        what, wanted = "answers changed, with prompts", f"{_FEWER:.0f} % fewer"
        found = f"{', '.join(f'{x:.0f}' for x in fewer.values())} % fewer"
        met = _count([x >= _FEWER for x in fewer.values()])
        yield what, f"`{result.set}`", ", ".join(fewer), wanted, found, met


def aims() -> str:
    """Return a row for each aim, with the sizes that it is for."""
    found = results()
    whole = [x for x in found if x.is_whole]
    lines = list[Line]()
    for kind, some in ((_drops, whole), (_coded, found), (_others, whole), (_changed, found)):
        lines += [y for x in some for y in kind(x)]
    head = ["aim", "set", "at", "wanted", "reached", "met"]
    return table(head, lines) if lines else MISSING


SECTIONS = {"aims": aims}
