"""Compare the ways to use prompts, task by task, in results that evidence.py wrote.

    python -m benchmarks.quality prompt_ways

A size may be divided by measured harm ("curves"), coded parts may be trained on top of that
("refit") or alone ("refit-alone"). For each pair of bundles that were scored on the same rows the
result has the mean difference over tasks with its 95 % interval, a bootstrap over tasks: in percent
of answers that change, in KL per answer, and as a factor of KL. The code that divided sizes is
gone; the stored results are its own. The result is benchmarks/results/quality/prompt-ways.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, save_json
from benchmarks.quality.sets import ALONE, CURVES, METHOD, REFIT

__all__ = ["compared", "main", "mean_interval"]

PAIRS = (
    ("gemma3-5x8-twentieth.harm", CURVES, METHOD, "5%"),
    ("gemma3-5x8.harm", CURVES, METHOD, "3%"),
    ("gemma3-5x8.curves", CURVES, METHOD, "2%"),
    ("gemma3-separate8-fiftieth.curves", CURVES, METHOD, "2%"),
    ("smollm2-en10-fiftieth.curves", CURVES, METHOD, "2%"),
    ("qwen25coder-code5.ways", CURVES, METHOD, "10%"),
    ("qwen25coder-code5.ways", CURVES, METHOD, "5%"),
    ("gemma3-5x8-twentieth.harm", REFIT, CURVES, "5%"),
    ("gemma3-5x8.harm", REFIT, CURVES, "3%"),
    ("gemma3-5x8-fiftieth.harm", REFIT, CURVES, "2%"),
    ("gemma3-5x8-twentieth.refit-alone gemma3-5x8-twentieth.harm", ALONE, METHOD, "5%"),
    ("gemma3-5x8-twentieth.refit-alone gemma3-5x8-twentieth.harm", ALONE, REFIT, "5%"),
)
"""Files of the two bundles, or one file of both; their methods; their size."""
_DRAWS = 10_000
_LEAST = 1e-9
Result = Mapping[str, Any]


def mean_interval(differences: Sequence[float]) -> list[float]:
    """Return the mean of tasks' differences, and the ends of its 95 % interval."""
    values = np.array(differences, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def compared(one: Mapping[str, Result], other: Mapping[str, Result]) -> dict[str, Any]:
    """Return the differences of two bundles, the first less the second, over common tasks.

    one, other: by task, as of :func:`_scores`.
    """
    tasks = [x for x in one if x in other and one[x]["of"] == other[x]["of"]]
    pairs = [(one[x], other[x]) for x in tasks]
    logs = [float(np.log(max(a["kl"], _LEAST) / max(b["kl"], _LEAST))) for a, b in pairs]
    return {
        "tasks": len(tasks),
        "changed_pct": mean_interval([a["changed"] - b["changed"] for a, b in pairs]),
        "kl_answer": mean_interval([a["kl"] - b["kl"] for a, b in pairs]),
        "kl_factor": [round(float(np.exp(x)), 3) for x in mean_interval(logs)],
    }


def _scores(folder: Path, file: str, method: str, size: str) -> dict[str, dict[str, Any]]:
    """Return by task which rows were scored, percent of changed answers, and KL per answer."""
    result = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
    label = f"{method}-{size.replace('%', 'pct')}.hydra.safetensors"
    return {
        task["adapter"]: {
            "of": (task["sha256"], task["rows"]),
            "changed": 100 * task["results"][label]["changed"] / task["rows"],
            "kl": task["results"][label]["kl_answer"],
        }
        for task in result["tasks"]
        if "results" in task
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser_of(__name__, __doc__).parse_args(arguments)
    rows = []
    for files, one, other, size in PAIRS:
        first, *second = files.split()
        mine = _scores(QUALITY, first, one, size)
        theirs = _scores(QUALITY, second[0] if second else first, other, size)
        about = {"files": files.split(), "method": one, "against": other, "size": size}
        rows.append({**about, **compared(mine, theirs)})
        print(json.dumps(rows[-1]))
    save_json(QUALITY / "prompt-ways.json", {**provenance("ways to use prompts", 0), "rows": rows})
