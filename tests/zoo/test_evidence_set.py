"""The adapters that stand behind the numbers are the ones that were scored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hydraopt import read_adapters
from tests.marks import slow

SET = Path(__file__).resolve().parents[2] / "zoo" / "adapters" / "gemma3-5x8"


@pytest.mark.parametrize(
    ("folder", "count"),
    [
        slow("gemma3-5x8", 40),
        ("gemma3-fresh6", 6),
        ("qwen25coder-code5", 5),
        slow("qwen25coder15-mixed5", 5),
        ("smollm2-cls4", 4),
        ("smollm2-tuners5", 5),
    ],
)
def test_every_file_has_its_hash(folder: str, count: int) -> None:
    place = SET.parent / folder
    lines = (place / "SHA256SUMS").read_text().splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    there = {str(path.relative_to(place)) for path in place.glob("*/adapter_*")}
    assert set(named) == there
    assert len(there) == 2 * count
    for name, wanted in named.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == wanted, name


def test_the_set_is_what_its_recipe_says() -> None:
    adapters = read_adapters(f"{SET}/*")
    assert len(adapters) == 40
    assert {module.r for adapter in adapters for module in adapter.modules.values()} == {8}
    tasks = {json.loads((SET / a.name / "score.json").read_text())["task"] for a in adapters}
    assert len({task.split("/")[0] for task in tasks}) == 5
    assert len(tasks) == 40
