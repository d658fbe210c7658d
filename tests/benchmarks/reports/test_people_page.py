"""The page on people says what a result says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.reports import people
from benchmarks.reports.tables import MISSING
from hydraopt.probes.items import ProbeItem, ProbeSide
from hydraopt.probes.measures import probe_measures
from hydraopt.probes.swaps import swap_measures, swap_rows

ITEMS = [
    ProbeItem(
        "winobias",
        str(i),
        "en",
        (ProbeSide("a", "stereotype"), ProbeSide("b", "against")),
        (("about", "half" if i % 2 else "other half"),),
    )
    for i in range(40)
]


def _scores(follow: set[int]) -> dict[str, list[Any]]:
    return {"winobias": [np.array([0.0, -1.0] if i in follow else [-1.0, 0.0]) for i in range(40)]}


@pytest.fixture
def result() -> dict[str, Any]:
    items = {"winobias": ITEMS}
    before, after = _scores({0}), _scores({0, *range(1, 40, 2)})
    rows = [x for x in swap_rows(["a", "b"], "en") if x.kind == "gender"]
    plain = {(row.number, text): "good" for row in rows for text in row.texts()}
    bad = plain | {(rows[0].number, dict(rows[0].variants)["male"]): "bad"}
    swaps = swap_measures(rows, {"original": plain, "small": bad}, "original")
    return {
        "collection": "six",
        "base": {"name": "tiny"},
        "products": "float32",
        "limits": {"swap_rows": 2},
        "made": {"small": {"method": "hydraopt", "size_pct": 5.0}},
        "probes": {"items": {"winobias": 40}, "base": probe_measures(items, before)},
        "tasks": [
            {
                "adapter": "mood-en",
                "language": "en",
                "probes": {
                    "winobias": {
                        "original": probe_measures(items, before)["winobias"],
                        "small": probe_measures(items, after, before)["winobias"],
                    }
                },
                "swaps": swaps,
            },
            {"adapter": "slots-en", "swaps": {"skipped": "no classification"}},
        ],
    }


def test_flips_groups_and_swaps_add_up(result, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(people, "QUALITY", tmp_path)
    assert people.SECTIONS["people"]() == MISSING
    (tmp_path / "six.probes.json").write_text(json.dumps(result))
    page = people.SECTIONS["people"]()
    assert "hydraopt 5.0 %: 50.0 % of the choices flip (20 of 40), 20 towards" in page
    assert "mood-en, hydraopt 5.0 %, winobias, about: half (20 towards, 0 away)" in page
    assert "| mood-en | winobias | 50.0 (20, 0) |" in page
    assert "| winobias | about: half | 20 | 100.0 (20, 0) |" in page
    assert "| winobias | about: other half | 20 | 0.0 (0, 0) |" in page
    assert "| winobias | base | 2.5 [0.4, 12.9] | < 0.001 | - | - |" in page
    text = " ".join(page.split())
    assert "of 2 swapped rows 1 have a label that depends on who is in them, with the" in text
    assert "| mood-en | 2 | 0.0 [0.0, 65.8] | 50.0 (+1, -0) |" in page
    assert "| gender | male | 2 | 0.0 | 50.0 (1) |" in page
