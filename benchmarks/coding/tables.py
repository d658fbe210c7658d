"""Make the fixed tables of the entropy coder, and the planner's curve, from synthetic columns.

    python -m benchmarks.coding tables

The source of a shape is a generalised Gaussian, drawn in columns of each spread class and quantised
with the prices of the tables as they are: run the command until they hardly change. The tables of
side integers are rounded counts of those in bundles of this repository's adapters. Writes
src/hydraopt/coding/frequencies.py, docs/reference/tables.h and native/src/core/tables.h, and prints
the rates and noises of src/hydraopt/compress/curve.py. The tables are part of the format: other
numbers are another format.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import ROOT
from hydraopt.codec import stream
from hydraopt.codec.tables import (
    CLASSES,
    ESCAPE,
    FIRST_SPREAD,
    LEVEL_TABLES,
    MIDDLE,
    TOTAL,
    Kind,
    half_of,
    level_table,
    shift_of,
    spread_of,
)

SHAPES: Final = {"normal": 2.0, "heavy": 0.6, "flat": 5.0}
"""Exponents of the generalised Gaussians, in the order of their numbers in the format."""
COLUMNS, LENGTH = 512, 2048
LAST_MEASURED: Final = 36
RAREST: Final = 0.35
"""Magnitudes expected more rarely than this, in 1/4096, have no symbol."""

Counts = NDArray[np.float64]


def columns_of(shape: str, spread: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return columns (LENGTH, COLUMNS) whose root mean squares fill a class, in steps."""
    p = SHAPES[shape]
    size = (LENGTH, COLUMNS)
    x = rng.gamma(1 / p, 1.0, size) ** (1 / p) * rng.choice([-1.0, 1.0], size)
    x /= np.sqrt(np.mean(x * x, axis=0))
    scale = float(spread_of(np.array([spread]))[0]) * 2 ** (rng.uniform(-0.5, 0.5, COLUMNS) / 4)
    columns: NDArray[np.float64] = x * scale
    return columns


def quantisers_of(levels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the quantiser of each number of columns of levels (k, N)."""
    state, found = np.zeros(len(levels), np.int64), np.empty(levels.shape, np.int64)
    for i, odd in enumerate((levels & 1).T):
        found[:, i] = state & 1
        state = state >> 1 ^ (state & 1) * 58 ^ odd * 17
    return found


def counted(shape: str) -> Counts:
    """Return counts (tables of a shape, 16): of magnitudes 0 to 14, then of all others."""
    rng = np.random.default_rng(0)
    counts = np.zeros((LEVEL_TABLES // len(SHAPES), MIDDLE + 2))
    for spread in range(FIRST_SPREAD - 1, FIRST_SPREAD + CLASSES + 4):
        levels = stream.quantise_block(columns_of(shape, spread, rng)).levels
        levels = levels[levels.any(axis=1)]
        number = max(spread - FIRST_SPREAD + 1, 1)
        shift, quantisers = shift_of(number), quantisers_of(levels)
        symbols = np.minimum(np.abs((levels + half_of(shift)) >> shift), MIDDLE + 1)
        for q in (0, 1):
            table = level_table(0, number, q)
            counts[table] += np.bincount(symbols[quantisers == q], minlength=MIDDLE + 2)
    return counts


def frequencies(counts: Counts) -> list[int]:
    """Return frequencies of the magnitudes 0, 1, ...; what they lack of TOTAL is the escape's."""
    counts = counts + np.eye(1, counts.size)[0]  # of flat columns in class 1 nothing is left
    each = counts / counts.sum() * TOTAL
    each[1:-1] /= 2
    kept = 1 + int(np.sum(np.minimum.accumulate(each[1:-1] >= RAREST)))
    row = [max(round(x), 1) for x in each[:kept].tolist()]
    escape = max(round(float(each[-1] + 2 * each[kept:-1].sum())), 1)
    row[0] = TOTAL - escape - 2 * sum(row[1:])
    return row


# fmt: off
WEIGHTS: Final[dict[Kind, tuple[int, list[int]]]] = {
    Kind.COUNT: (-10, [680, 610, 445, 250, 210, 135, 325, 115, 515, 37, 35, 34, 33, 32, 29, 29, 210,
                       80, 18, 16, 17, 17, 17, 16, 22, 98]),
    Kind.MODE: (0, [36, 3000, 950, 16, 17, 16, 16, 16, 16, 2]),
    Kind.FIRST_CLASS: (-14, [118, 200, 202, 172, 186, 192, 188, 185, 184, 154, 131, 107, 100, 90,
                             96, 96, 96, 100, 98, 99, 82, 91, 87, 93, 77, 69, 60, 48, 46, 140]),
    Kind.NEXT_CLASS: (-14, [7, 9, 11, 21, 28, 47, 73, 102, 144, 176, 247, 392, 639, 1071, 942, 106,
                            23, 6, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 8]),
    Kind.EXPONENT: (-14, [8, 8, 10, 9, 16, 20, 30, 39, 58, 67, 71, 76, 91, 167, 604, 681, 516, 376,
                          277, 213, 164, 130, 100, 78, 60, 48, 34, 30, 22, 92]),
    Kind.AFTER_NORMAL: (0, [3500, 95, 500, 1]),
    Kind.AFTER_HEAVY: (0, [600, 3275, 220, 1]),
    Kind.AFTER_FLAT: (0, [1700, 100, 2295, 1]),
}
# fmt: on
"""First symbol of each kind of side integer; weights of it and those after it, the escape last."""


def side_frequencies(kind: Kind) -> list[int]:
    """Return frequencies of the values -14 to 14; what they lack of TOTAL is the escape's."""
    first, weights = WEIGHTS[kind]
    each = [x * TOTAL / sum(weights) for x in weights[:-1]]
    row = [0] * ESCAPE
    row[first + MIDDLE : first + MIDDLE + len(each)] = [max(round(x), 1) for x in each]
    row[int(np.argmax(row))] += min(
        TOTAL - max(round(weights[-1] * TOTAL / sum(weights)), 1) - sum(row), 0
    )
    return row


def listing(rows: Sequence[Sequence[int]], brackets: str) -> str:
    """Return rows of numbers as text, a line each, folded."""
    left, right = brackets[0], brackets[1]
    lines = []
    for row in rows:
        whole = ", ".join(map(str, row))
        lines += textwrap.wrap(
            f"{left}{whole}{right},", 100, initial_indent="    ", subsequent_indent="     "
        )
    return "\n".join(lines)


PYTHON = '''"""Frequencies of the entropy coder: made by ``python -m benchmarks.coding tables``."""

from __future__ import annotations

from typing import Final

__all__ = ["LEVELS", "SIDE"]

# fmt: off
LEVELS: Final = [
{levels}
]
"""Of the magnitudes 0, 1, ... of levels; a row for each shape, class and quantiser."""
SIDE: Final = [
{side}
]
"""Of the values -14 to 14 of side integers; a row for each kind."""
'''
HEADER = """/* Frequencies of the entropy coder (streams.md, section 1), in 1/4096: made by
 * `python -m benchmarks.coding tables`. LEVELS: of the magnitudes 0 to 14 of levels, a row for each
 * shape, class and quantiser. SIDE: of the values -14 to 14 of side integers, a row for each
 * kind. */
static const uint16_t LEVELS[{level_tables}][15] = {{
{levels}
}};
static const uint16_t SIDE[{kinds}][29] = {{
{side}
}};
"""


def write(levels: Sequence[Sequence[int]], side: Sequence[Sequence[int]]) -> None:
    """Write the tables for the three readers."""
    python = PYTHON.format(levels=listing(levels, "[]"), side=listing(side, "[]"))
    (ROOT / "src/hydraopt/coding/frequencies.py").write_text(python, encoding="utf-8")
    header = HEADER.format(
        levels=listing(levels, "{}"),
        side=listing(side, "{}"),
        level_tables=len(levels),
        kinds=len(side),
    )
    for place in ("docs/reference/tables.h", "native/src/core/tables.h"):
        (ROOT / place).write_text(header, encoding="utf-8")


def curve() -> Iterator[tuple[int, float, float]]:
    """Yield spread class, bits a number, and noise once the bias is undone, of normal columns."""
    rng = np.random.default_rng(1)
    for spread in range(LAST_MEASURED + 1):
        x = columns_of("normal", spread, rng)
        block = stream.quantise_block(x)
        writer = stream.StreamWriter()
        writer.block(block)
        length = float(np.linalg.norm(block.values))
        rho = float(np.sum(x * block.values) / np.linalg.norm(x)) / max(length, 1e-9)
        yield spread, 8 * writer.size / x.size, float(min(1 / max(rho, 1e-9) ** 2 - 1, 1e9))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--only-curve", action="store_true", help="Leave the tables as they are.")
    args = parser.parse_args(arguments)
    if not args.only_curve:
        levels: list[list[int]] = []
        for shape in SHAPES:
            levels += [frequencies(row) for row in counted(shape)]
        write(levels, [side_frequencies(kind) for kind in Kind])
    for spread, bits, noise in curve():
        print(f"{spread:3} {bits:8.4f} {noise:12.6g}")


if __name__ == "__main__":
    main()
