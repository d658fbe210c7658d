"""Tables of adapters with heads, embeddings and other tensors: real ones, and a saved embedding."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "TABLES"]

Row = Mapping[str, Any]


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((QUALITY / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


_HEADS = ("adapter", "fp16 bytes", "share of tensors", "bit by bit", "coded", "error of modules")


def _real() -> str:
    """Return the rows of adapters with tensors, and the refused ones; real.csv has all."""
    rows = _result("real")["rows"]
    refused = [f"{row['repo']} ({row['refused']})" for row in rows if "refused" in row]
    lines = [_line(row) for row in rows if row.get("tensor_numbers")]
    return f"{table([*_HEADS, 'error of tensors'], lines)}\nRefused: {', '.join(refused)}.\n"


def _line(row: Row) -> list[str]:
    before, after = row["exact"], row["coded"]
    least = before.get("least_bytes")
    return [
        row["repo"],
        f"{row['fp16_bytes']:,}",
        f"{100 * row['tensor_numbers'] / row['numbers']:.0f} %",
        f"refused; at least {least:,}"
        if least
        else f"{before['bytes']:,} ({_error(before['error'])})",
        f"{after['bytes']:,}",
        _error(after["error"]),
        _error(after["tensors_error"]),
    ]


def _every_real() -> Table:
    """Return the rows of all adapters that are not refused."""
    rows = [row for row in _result("real")["rows"] if "refused" not in row]
    return [*_HEADS, "error of tensors"], [_line(row) for row in rows]


def _traced() -> str:
    """Return the adapters that were traced, and how many there are and how long a search takes."""
    rows = _result("traced")["rows"]
    head = ["adapter", "seed", "modules traced", "median cosine of A with A_0", "seconds"]
    lines = [
        [
            row["repo"],
            str(row["seed"]),
            f"{row['traced']} of {row['modules']}",
            f"{row['cosine']:.2f}",
            f"{row['seconds']:.2f}",
        ]
        for row in rows
        if row["traced"]
    ]
    longest = max(row["seconds"] for row in rows)
    return f"{table(head, lines)}\nTraced: {len(lines)} of {len(rows)}; at most {longest:.1f} s.\n"


def _embedding() -> str:
    result = _result("embedding")
    rows, columns = result["shape"]
    lines = [
        f"{result['base']}: {rows:,} x {columns}, {result['changed_rows']} rows changed; "
        f"`--max-error {result['max_error']:g}`.",
        "",
        "| embedding | bundle | of fp16 | error of modules | error of the embedding |",
        _row(*["---"] * 5),
    ]
    for row in result["rows"]:
        share = 100 * row["bytes"] / row["fp16_bytes"]
        cells = (
            row["how"],
            f"{row['bytes']:,}",
            f"{share:.2f} %",
            _error(row["error"]),
            _error(row["embedding_error"]),
        )
        lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def _trained() -> str:
    result = _result("trained-tuners")
    lines = [
        f"SmolLM2-135M, {result['task']}; `--size 10%`, each alone.",
        "",
        "| adapter | fp16 bytes | bundle | error | base right | original | export | flips |",
        _row(*["---"] * 8),
    ]
    for row in result["rows"]:
        right = (f"{100 * row[name]:.1f} %" for name in ("base", "original", "export"))
        cells = (
            f"{row['adapter']} ({row['tuner']})",
            f"{row['fp16_bytes']:,}",
            f"{row['bytes']:,}",
            _error(row["error"]),
            *right,
            str(row["flips"]),
        )
        lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def _heads() -> str:
    lines = [
        "| size | way | bytes | accuracy [95 %] | macro-F1 [95 %] | labels that flip | KL |",
        _row(*["---"] * 7),
    ]
    for row in _result("heads")["rows"]:
        if "refused" in row:
            lines.append(_row(row["size"], row["way"], "refused", *"----"))
            continue
        cells = (
            row["size"],
            row["way"],
            f"{row['bytes']:,}",
            _change(row["tasks"], "accuracy"),
            _change(row["tasks"], "macro-F1"),
            f"{row['flips']} of {row['rows']:,}",
            f"{row['kl']:.5f}",
        )
        lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def _change(tasks: dict[str, Any], metric: str) -> str:
    """Return the mean change over independent tasks, in points, with 1.96 bootstrap deviations."""
    changes = [task["difference"][metric] for task in tasks.values()]
    mean = sum(x["difference"] for x in changes) / len(changes)
    half = 1.96 * math.sqrt(sum(x["deviation"] ** 2 for x in changes)) / len(changes)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


SECTIONS = {
    "heads": _heads,
    "real": _real,
    "traced": _traced,
    "embedding": _embedding,
    "trained tuners": _trained,
}
TABLES = {"real.csv": _every_real}
