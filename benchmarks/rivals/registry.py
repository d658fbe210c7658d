"""Which compressors are run on a set, at which sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.bundles import combined, heads
from benchmarks.rivals.files import fp16_files, zip_files, zstd_files
from benchmarks.rivals.jd import jd_diagonal, jd_full
from benchmarks.rivals.loraquant import loraquant
from benchmarks.rivals.private import cut_by_energy, cut_by_rank, rounding, svd

__all__ = ["ONE_FOR_ALL", "head_counts", "head_map", "one_for_all", "rivals"]

FRACTIONS = (0.5, 0.25, 0.1, 0.05, 0.025)
RATIOS = (0.9, 0.8, 0.5)
WIDTHS = (8, 16, 32, 64)
ONE_FOR_ALL: Sequence[str] = (
    "average", "task-arithmetic", "ties", "dare-linear", "dare-ties", "magnitude", "della",
    "breadcrumbs", "knots-ties", "core-ties", "tsv-m", "iso-c", "lora-lego", "peft-linear",
    "peft-ties", "peft-magnitude", "peft-svd",
)  # fmt: skip
_UNCUT = {"average", "task-arithmetic", "knots-ties", "core-ties", "tsv-m", "iso-c"}
"""These keep every part of a sum unless they are told to cut it."""


def head_counts(tasks: int) -> list[int]:
    """1, T/8, T/4 and T."""
    return sorted({1, max(tasks // 8, 1), max(tasks // 4, 1), tasks})


def head_map(tasks: int, rank: int) -> list[Compressor]:
    """HydraOpt over heads and ranks, from a quarter to four times the adapters' own."""
    counts = sorted({*head_counts(tasks), max(tasks // 2, 1)})
    ranks = sorted({max(rank // 4, 1), max(rank // 2, 1), rank, 2 * rank, 4 * rank})
    return [heads(count, r) for count in counts for r in ranks]


def one_for_all(method: str, rank: int, tuned: Mapping[str, float] | None = None) -> Compressor:
    """A method that makes one adapter of all, of about this rank, at its defaults or as tuned.

    The result of some has the rank of all tasks together, as large as they are; it is cut to its
    best ``rank`` parts, which costs what these methods were not made for, and the setting says so.
    """
    cut = {"rank": rank} if method in _UNCUT else {}
    given = [f"{name} {value:g}" for name, value in (tuned or {}).items()]
    setting = " ".join([*(["cut to rank", f"{rank}"] if cut else []), *given])
    return combined(method, setting, tuned=tuned, **cut)


def rivals(
    tasks: int, rank: int, tuned: Mapping[str, Mapping[str, float]] | None = None
) -> list[Compressor]:
    """All rows of the plan "rivals" for so many adapters of about this rank.

    tuned: by method, options in place of its defaults.
    """
    halves = sorted({max(rank // 2, 1), max(rank // 4, 1), max(rank // 8, 1)}, reverse=True)
    return [
        fp16_files(),
        zip_files(),
        zstd_files(),
        *(rounding(bits) for bits in (8, 4, 3, 2, None)),
        *(svd(cut_by_rank(k), f"rank {k}") for k in halves),
        *(svd(cut_by_energy(x), f"{100 * x:g} %") for x in FRACTIONS),
        *(svd(cut_by_energy(x), f"{100 * x:g} %", 4) for x in FRACTIONS[:4]),
        *(loraquant(ratio) for ratio in RATIOS),
        *(jd_full(c) for c in WIDTHS),
        *(jd_full(c, 4) for c in WIDTHS[1:3] if tasks >= 8),
        *(jd_diagonal(c) for c in WIDTHS[1:]),
        *(heads(count, r) for count in head_counts(tasks) for r in (rank, 2 * rank)),
        *(one_for_all(name, rank, (tuned or {}).get(name)) for name in ONE_FOR_ALL),
        *(
            combined("k-merge", f"K={k}", shuffled=True, clusters=k)
            for k in head_counts(tasks)[1:-1]
        ),
    ]
