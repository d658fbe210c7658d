"""Merges to nearly one size, beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

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
        for task, scale in (("a", 1.0), ("b", 4.0))
        for label, values in {
            "original": [[0, 0.0, 1.0]] * 2,
            **{f"h_{x}": [[1, scale * y, 1.0], [0, scale * y, 1.0]] for x, y in kl.items()},
        }.items()
    ]
    result = {"base": "b-1m", "methods": methods, "rows": rows}
    (tmp_path / "examples.equal-kl.json").write_text(json.dumps(result))
    (line,) = noise().splitlines()[2:]
    cells = [x.strip() for x in line.strip("|").split("|")]
    # Logs that differ by 0.5 from their mean have a standard deviation of 0.5, in each task.
    assert cells == [
        *("`examples`, 2", "5.04%, 5%, 4.96%", "50.0, 50.0, 50.0 %", "2.5, 4.1, 6.8"),
        *(f"{step:.2f}", f"{step:.2f}"),
    ]
