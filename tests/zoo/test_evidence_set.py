"""The 40 adapters that stand behind the numbers are the ones that were scored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hydraopt import read_adapters

SET = Path(__file__).resolve().parents[2] / "zoo" / "adapters" / "gemma3-5x8"


def test_every_file_has_its_hash() -> None:
    lines = (SET / "SHA256SUMS").read_text().splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    there = {str(path.relative_to(SET)) for path in SET.glob("*/adapter_*")}
    assert set(named) == there
    assert len(there) == 80
    for name, wanted in named.items():
        assert hashlib.sha256((SET / name).read_bytes()).hexdigest() == wanted, name


def test_the_set_is_what_its_recipe_says() -> None:
    adapters = read_adapters(f"{SET}/*")
    assert len(adapters) == 40
    assert {module.r for adapter in adapters for module in adapter.modules.values()} == {8}
    tasks = {json.loads((SET / a.name / "score.json").read_text())["task"] for a in adapters}
    assert len({task.split("/")[0] for task in tasks}) == 5
    assert len(tasks) == 40
