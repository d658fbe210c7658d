"""PEFT's tuners: the treatment of each, and the adapter that comes back."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import table, wrapped
from hydraopt.adapters.tuners import TUNERS

__all__ = ["SECTIONS", "TABLES", "cases", "treatments"]

_HOW = {"low rank": "low rank", "factors": "low-rank factors", "tensors": "tensors"}


def _result() -> Any:
    return json.loads((QUALITY / "tuners.json").read_text(encoding="utf-8"))


def treatments() -> str:
    """Return the tuners by their treatment, and the refused ones with the reasons."""
    result = _result()
    made = [row for row in result["rows"] if "refused" not in row]
    lines = []
    for treatment, name in _HOW.items():
        mine = [row for row in made if row["treatment"] == treatment]
        logits = [row["logits_error"] for row in mine]
        cases = ", ".join(f"`{row['case']}`" for row in mine)
        lines.append([name, cases, f"{min(logits):.3f} to {max(logits):.3f}"])
    about = f"PEFT {result['versions']['peft']}; `--max-error {result['max_error']:g}`.\n"
    known = {row["case"] for row in result["rows"]} | {row["tuner"] for row in result["rows"]}
    others = [name for name in TUNERS if name not in known]
    refused = [(row["case"], row["refused"]) for row in result["rows"] if "refused" in row]
    refused += [(name, TUNERS[name].why) for name in others if TUNERS[name].why]
    parts = [
        about,
        table(["treated as", "tuners", "error of the logits"], lines),
        "Refused:\n",
        "".join(f"- `{name}`: {why}.\n" for name, why in refused),
    ]
    unmade = ", ".join(f"`{name}`" for name in others if not TUNERS[name].why)
    if unmade:
        parts.append(wrapped(f"Read like these, and not made by this PEFT: {unmade}."))
    return "\n".join(parts)


def cases() -> Table:
    """Return one row for each tuner that was made, merged, exported and loaded."""
    rows = [
        [
            row["case"],
            _HOW[row["treatment"]],
            row["modules"],
            sum(row["tensors"].values()),
            row["fp16_bytes"],
            row["bytes"],
            f"{row['error']:.3f}",
            f"{row['logits_error']:.3f}",
        ]
        for row in _result()["rows"]
        if "refused" not in row
    ]
    heads = ["tuner", "treated as", "modules", "tensors", "fp16_bytes", "bytes", "error"]
    return [*heads, "logits_error"], rows


SECTIONS = {"tuners": treatments}
TABLES = {"tuners.csv": cases}
