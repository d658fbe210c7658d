"""Bits a number and noise of the trellis and the range coder on Gaussian numbers, by spread class.

    python -m benchmarks.coding gaussian_table [--print]

Prints the two tables of src/hydraopt/compress/curve.py as measured now (``--print``: ready to
paste), and how far those in the source are from them. Noise is 1/rho^2 - 1, what is left once the
bias is undone; the gap is bits a number above the Shannon bound at that noise, log2(1 + 1/noise) /
2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt.coding.spread import spread_classes
from hydraopt.coding.stream import StreamWriter, quantise_block
from hydraopt.compress.curve import noise_of, rate_of

NUMBERS = 1 << 17
CLASSES = 37
SEED = 0


def measure(spread: int, rng: np.random.Generator) -> tuple[float, float]:
    """(bits a number, noise) of one column whose RMS is the middle of the class."""
    x = rng.standard_normal(NUMBERS)
    x *= 2.0 ** ((spread - 16) / 4) / np.sqrt(np.mean(x**2))
    assert spread_classes(np.sqrt(np.mean(x**2, axis=None, keepdims=True)))[0] == spread
    block = quantise_block(x[:, None])
    writer = StreamWriter()
    writer.block(block, 3)
    bits = 8 * len(writer.finish()) / NUMBERS
    values = block.values[:, 0]
    if not values.any():
        return bits, np.inf
    rho = float(x @ values / np.sqrt((x @ x) * (values @ values)))
    return bits, 1 / rho**2 - 1


def literal(name: str, values: list[float]) -> str:
    # Where nothing is left of a column its noise has no measure; any large number says so.
    digits = ", ".join(f"{min(value, 1e9):.4g}" for value in values)
    return f"{name} = np.array([{digits}])"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args(arguments)
    head = provenance(f"trellis and range coder on {NUMBERS} Gaussian numbers a class", SEED)
    rng = np.random.default_rng(SEED)
    classes = np.arange(CLASSES)
    rows: list[dict[str, Any]] = []
    for spread in classes.tolist():
        bits, noise = measure(spread, rng)
        at = np.array([spread])
        row: dict[str, Any] = {
            "class": spread,
            "rate": round(bits, 4),
            "noise": float(f"{noise:.4g}"),
        }
        row |= {"table_rate": float(rate_of(at)[0]), "table_noise": float(noise_of(at)[0])}
        if np.isfinite(noise):
            row["gap_bits"] = round(bits - 0.5 * float(np.log2(1 + 1 / noise)), 4)
            row["rate_off"] = round(bits - row["table_rate"], 4)
            row["noise_off_pct"] = round(100 * (noise / row["table_noise"] - 1), 2)
        else:
            row["noise"] = None
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    used = [row for row in rows if row["class"] >= 13]
    worst = {
        "rate": max(abs(row["rate_off"]) for row in used),
        "noise_pct": max(abs(row["noise_off_pct"]) for row in used),
        "gap_bits": max(row["gap_bits"] for row in used),
    }
    print(
        f"classes that the planner uses: largest rate difference {worst['rate']} bit, "
        f"noise {worst['noise_pct']} %, gap to Shannon {worst['gap_bits']} bit at most"
    )
    if args.print:
        print(literal("_RATE", [row["rate"] for row in rows]))
        print(literal("_NOISE", [row["noise"] or np.inf for row in rows]))
    print(write_result(CODING, "gaussian_table", head | {"worst": worst}, rows))
