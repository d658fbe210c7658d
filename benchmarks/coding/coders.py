"""The same integers by several coders, and how far the bytes are from what theory allows.

    python -m benchmarks.coding coders ADAPTERS... [--size 5%]

Merges the adapters, takes the rounded columns as they go into the streams, and codes them with
hydraopt's range coder, constriction's ANS and range coders, zstd, zlib and lzma; then compares with
ideal sizes, with the Shannon bound at the distortion reached, and with a scalar quantiser at the
same squared error. One core; JIT warm; speeds are the best of a few runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.coding import contenders, ideal, scalar
from benchmarks.coding.contenders import Outcome
from benchmarks.coding.recorded import Recorded, Stream, record
from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt.adapters import read_adapters

CODERS: dict[str, Callable[[Sequence[Stream]], Outcome]] = {
    "hydraopt range coder": contenders.ours,
    "ANS, categorical by class": lambda s: contenders.ans(s, "categorical"),
    "ANS, Gaussian by class": lambda s: contenders.ans(s, "gaussian"),
    "range coder, categorical by class": lambda s: contenders.queue(s, "categorical"),
    "range coder, Gaussian by class": lambda s: contenders.queue(s, "gaussian"),
    "zstd -19, byte planes": lambda s: contenders.planes(s, "zstd -19"),
    "zlib -9, byte planes": lambda s: contenders.planes(s, "zlib -9"),
    "lzma -9e, byte planes": lambda s: contenders.planes(s, "lzma -9e"),
}


def coder_rows(made: Recorded) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    contenders.ours(made.streams, 1)
    for name, run in CODERS.items():
        got = run(made.streams)
        total = got.levels + got.tables
        base = rows[0]["bytes"] if rows else total
        row = {"table": "coders", "coder": name, "bytes": total, "tables": got.tables}
        row["against_ours"] = round(total / base, 4)
        row["bits_a_number"] = round(8 * total / made.numbers, 4)
        row["encode_mnps"] = round(made.numbers / got.encode / 1e6, 2)
        row["decode_mnps"] = round(made.numbers / got.decode / 1e6, 2)
        rows.append(row)
        print(
            f"{name:36} {total:9,} B {row['bits_a_number']:7.4f} bit {row['against_ours']:7.4f}  "
            f"encode {row['encode_mnps']:7.2f}  decode {row['decode_mnps']:7.2f} M/s",
            flush=True,
        )
    return rows


def ideal_rows(made: Recorded, coded: int) -> list[dict[str, Any]]:
    """Ideal bits of the same levels under several models; ``coded``: bytes of our levels alone."""
    blocks = [block for stream in made.columns for block in stream]
    marks = [ideal.contexts(block) for block in blocks]
    q = np.concatenate([mark[0] for mark in marks]).astype(np.int64)
    act = np.concatenate([mark[1] for mark in marks]).astype(np.int64)
    columns = list(made.all_columns())
    sizes = [column.levels.size for column in columns]
    k = np.concatenate([column.levels for column in columns]).astype(np.int64)
    cls = np.repeat([column.spread for column in columns], sizes)
    edges = np.cumsum([0, *sizes])
    each = [slice(a, b) for a, b in itertools.pairwise(edges.tolist())]
    gaussian = sum(
        ideal.gaussian_bits(column, q[at].astype(np.int8))
        for column, at in zip(columns, each, strict=True)
    )
    found = {
        "Gaussian, own spread of each column, by quantiser": gaussian,
        "empirical, by class": ideal.entropy(k, cls),
        "empirical, by class and quantiser": ideal.entropy(k, cls, q),
        "empirical, by class, quantiser and activity": ideal.entropy(k, cls, q, act),
        "empirical, each column alone": sum(ideal.entropy(k[at]) for at in each),
        "empirical, each column alone, by quantiser": sum(
            ideal.entropy(k[at], q[at]) for at in each
        ),
        "our adaptive model, no coder": ideal.adaptive_bits(made.columns),
        "Shannon bound at the distortion reached": sum(map(ideal.shannon_bits, columns)),
    }
    rows = []
    for name, bits in found.items():
        row = {"table": "ideal", "model": name, "bytes": round(bits / 8)}
        row["bits_a_number"] = round(bits / made.numbers, 4)
        row["levels_over_ideal"] = round(8 * coded / bits, 4)
        row["coded_over_ideal"] = round(8 * made.coded_bytes / bits, 4)
        row["gap_bits_a_number"] = round((8 * coded - bits) / made.numbers, 4)
        row["gap_bits_a_number_with_side"] = round((8 * made.coded_bytes - bits) / made.numbers, 4)
        rows.append(row)
        print(
            f"{name:50} {row['bytes']:9,} B  levels/ideal {row['levels_over_ideal']:.4f}  "
            f"coded/ideal {row['coded_over_ideal']:.4f}  gap {row['gap_bits_a_number']:.4f} bit",
            flush=True,
        )
    return rows


def scalar_rows(made: Recorded) -> list[dict[str, Any]]:
    """Bytes of a scalar quantiser at the trellis's squared error, in the same adaptive model."""
    trellis = ideal.adaptive_bits(made.columns)
    wanted = scalar.squared_error(made.columns)
    rows = []
    for lam in (0.0, 0.1, 0.2, 0.25, 0.3, 0.4):
        got = scalar.at_equal_error(made.columns, wanted, lam)
        row = {"table": "scalar", "lambda": lam, "step": round(got.step, 4)}
        row |= {"bytes": round(got.bits / 8), "trellis_bytes": round(trellis / 8)}
        row["against_trellis"] = round(got.bits / trellis, 4)
        row["bits_a_number_more"] = round((got.bits - trellis) / made.numbers, 4)
        row["error_against_trellis"] = round(got.error / wanted, 5)
        rows.append(row)
        print(
            f"scalar, lambda {lam:4.2f} step {got.step:.3f}: {row['bytes']:9,} B, "
            f"{row['against_trellis']:.4f} of the trellis, error {got.error / wanted:.4f}",
            flush=True,
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--size", default="5%")
    parser.add_argument("--name", default="coders")
    args = parser.parse_args(arguments)
    head = provenance("coders on the levels of a merge, and ideal sizes of the same levels")
    made = record(read_adapters(args.adapters), args.size)
    head |= {"numbers": made.numbers, "coded_bytes": made.coded_bytes, "forms": made.forms}
    head |= {"side_integers": sum(stream.sides for stream in made.streams)}
    print(f"{made.numbers:,} numbers, {made.coded_bytes:,} bytes coded, {made.forms}", flush=True)
    rows = coder_rows(made)
    head["side_bytes"] = made.coded_bytes - rows[0]["bytes"]
    print(f"side information (counts, classes, exponents): {head['side_bytes']:,} B")
    rows += ideal_rows(made, rows[0]["bytes"])
    rows += scalar_rows(made)
    print(write_result(CODING, args.name, head, rows))
