"""Merges to nearly one size, beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from benchmarks.reports import same_rows
from benchmarks.reports.noise import noise


def test_three_near_sizes_are_one_row(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(same_rows, "QUALITY", tmp_path)
    step = math.exp(0.5)
    kl = {"5.04%": 1.0, "5%": step, "4.96%": step**2, "3%": 9.0, "2.98%": 9.5}
    methods = {
        f"h_{x}": {"method": "hydraopt", "setting": x, "share": float(x.strip("%")) / 100}
        for x in kl
    }
    rows = [
        {"adapter": task, "metric": "exact match", "method": label, "values": values}
        for task, power in (("a", 1), ("b", -1))
        for label, values in {
            "original": [[0, 0.0, 1.0]] * 2,
            **{f"h_{x}": [[i, y**power, 1.0] for i in (0, 1)] for x, y in kl.items()},
        }.items()
    ]
    result = {"base": "b-1m", "methods": methods, "rows": rows}
    (tmp_path / "examples.equal-kl.json").write_text(json.dumps(result))
    (line,) = noise().splitlines()[2:]
    cells = [x.strip() for x in line.strip("|").split("|")]
    # Logs of the tasks differ by 0.5, in opposite directions, so the mean differs less.
    means = [(y + 1 / y) / 2 for y in (1.0, step, step**2)]
    assert cells == [
        *("`examples`, 2", "5.04%, 5%, 4.96%", "50.0, 50.0, 50.0 %"),
        ", ".join(f"{x:.2g}" for x in means),
        f"{math.exp(np.std(np.log(means), ddof=1)):.2f}",
        f"{step:.2f}",
    ]
