"""The table of PEFT's tuners: how each is treated, and what comes back."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import QUALITY
from hydraopt.adapters.tuners import TUNERS

__all__ = ["SECTIONS"]

_HOW = {"low rank": "low rank", "factors": "low-rank factors", "tensors": "tensors"}


def _table() -> str:
    result = json.loads((QUALITY / "tuners.json").read_text(encoding="utf-8"))
    lines = [
        f"PEFT {result['versions']['peft']}; `--max-error {result['max_error']:g}`.",
        "",
        "| tuner | treated as | modules, tensors | fp16 bytes | bundle | error | logits |",
        "|---|---|---|---|---|---|---|",
    ]
    refused = []
    for row in result["rows"]:
        if "refused" in row:
            refused.append((row["case"], row["refused"]))
        else:
            lines.append(_line(row))
    made = {row["case"] for row in result["rows"]} | {row["tuner"] for row in result["rows"]}
    refused += [(name, TUNERS[name].why) for name in TUNERS if name not in made and _why(name)]
    lines += ["", "Refused:", "", *(f"- `{name}`: {why}." for name, why in refused)]
    unmade = [f"`{name}`" for name in TUNERS if name not in made and not _why(name)]
    if unmade:
        lines += ["", f"Read as the others, and not made by this PEFT: {', '.join(unmade)}."]
    return "\n".join(lines) + "\n"


def _why(name: str) -> str:
    return TUNERS[name].why


def _line(row: dict[str, Any]) -> str:
    tensors = sum(row["tensors"].values())
    cells = (
        f"`{row['case']}`",
        _HOW[row["treatment"]],
        f"{row['modules']}, {tensors}",
        f"{row['fp16_bytes']:,}",
        f"{row['bytes']:,}",
        f"{row['error']:.3f}",
        f"{row['logits_error']:.3f}",
    )
    return f"| {' | '.join(cells)} |"


SECTIONS = {"tuners": _table}
