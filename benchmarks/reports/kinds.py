"""Tables of adapters with heads, embeddings and other tensors: real ones, and a saved embedding."""

from __future__ import annotations

import json
import math
from typing import Any

from benchmarks.common import QUALITY

__all__ = ["SECTIONS"]


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((QUALITY / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _real() -> str:
    lines = [
        "| adapter | fp16 bytes | of that tensors | bit by bit | coded | error of modules "
        "| of tensors |",
        _row(*["---"] * 7),
    ]
    refused = []
    for row in _result("real")["rows"]:
        name = row["repo"]
        if "refused" in row:
            refused.append(f"- {name}: {row['refused']}.")
            continue
        before, after = row["exact"], row["coded"]
        least = before.get("least_bytes")
        exact = (
            f"{before['bytes']:,} ({_error(before['error'])})"
            if least is None
            else f"refused; at least {least:,}"
        )
        cells = (
            name,
            f"{row['fp16_bytes']:,}",
            f"{100 * row['tensor_numbers'] / row['numbers']:.0f} %",
            exact,
            f"{after['bytes']:,}",
            _error(after["error"]),
            _error(after["tensors_error"]),
        )
        lines.append(_row(*cells))
    lines += ["", "Refused:", "", *refused]
    return "\n".join(lines) + "\n"


def _embedding() -> str:
    result = _result("embedding")
    rows, columns = result["shape"]
    lines = [
        f"{result['base']}: {rows:,} x {columns}, {result['changed_rows']} rows changed; "
        f"`--max-error {result['max_error']:g}`.",
        "",
        "| embedding | bundle | of fp16 | error of modules | of the embedding |",
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
    """The mean change over independent tasks, in points, with 1.96 bootstrap deviations of it."""
    changes = [task["difference"][metric] for task in tasks.values()]
    mean = sum(x["difference"] for x in changes) / len(changes)
    half = 1.96 * math.sqrt(sum(x["deviation"] ** 2 for x in changes)) / len(changes)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


SECTIONS = {"heads": _heads, "real": _real, "embedding": _embedding, "trained tuners": _trained}
