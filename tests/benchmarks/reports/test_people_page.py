"""The page on people says what a result says, of few adapters and of many."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.reports import people
from benchmarks.reports.moves import (
    moved,
    of_men,
    preferred,
    pronouns,
    ratio_interval,
    share_text,
    signs_p,
)
from benchmarks.reports.tables import MISSING
from hydraopt.jsonvalues import to_json
from hydraopt.probes.chance import binomial_p
from hydraopt.probes.items import ProbeItem, ProbeSide
from hydraopt.probes.measures import probe_measures

ITEMS = 40
PROBES = ("winogender", "winobias", "crows-pairs", "seegull", "kobbq", "bbq")
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "pt")


def _items(probe: str) -> list[ProbeItem]:
    people = ("female", "male") if probe.startswith("wino") else ("", "")
    return [
        ProbeItem(
            (
                ProbeSide("a", "stereotype", person=people[0]),
                ProbeSide("b", "against", person=people[1]),
            ),
            {"about": "half" if i % 2 else "other half"},
        )
        for i in range(ITEMS)
    ]


def _scores(follow: set[int]) -> list[Any]:
    return [np.array([0.0, -1.0] if i in follow else [-1.0, 0.0]) for i in range(ITEMS)]


def _probed(before: dict[str, set[int]], after: dict[str, dict[str, set[int]]]) -> dict[str, Any]:
    """An entry's probes. before: by probe, items that follow the stereotype. after: the same by
    label."""
    items = {probe: _items(probe) for probe in before}
    old = {probe: _scores(x) for probe, x in before.items()}
    made = {"original": to_json(probe_measures(items, old))}
    for label, follow in after.items():
        now = {probe: _scores(x) for probe, x in follow.items()}
        made[label] = to_json(probe_measures(items, now, old))
    return {probe: {label: said[probe] for label, said in made.items()} for probe in items}


def _result(tasks: list[dict[str, Any]], labels: tuple[str, ...], probes: Any) -> dict[str, Any]:
    items, scores = {x: _items(x) for x in probes}, {x: _scores({0}) for x in probes}
    base = to_json(probe_measures(items, scores))
    return {
        "collection": "six",
        "base": {"name": "tiny"},
        "products": "float32",
        "made": {x: {"method": "hydraopt", "size_pct": 5.0 - i} for i, x in enumerate(labels)},
        "probes": {"items": dict.fromkeys(probes, ITEMS), "base": base},
        "tasks": tasks,
    }


@pytest.fixture
def small() -> dict[str, Any]:
    """One adapter; each odd item turns towards the stereotype."""
    probes = _probed({"winobias": {0}}, {"small": {"winobias": {0, *range(1, ITEMS, 2)}}})
    mood = {"adapter": "mood-en", "task": "mood", "language": "en"}
    tasks = [
        {**mood, "probes": probes},
        {"adapter": "slots-en", "probes": {"skipped": "a classifier"}},
    ]
    return _result(tasks, ("small",), ["winobias"])


@pytest.fixture
def large() -> dict[str, Any]:
    """As many adapters, probes and languages as the zoo has of three kinds of task."""
    rng = np.random.default_rng(0)
    labels = ("one", "two")
    tasks = []
    for kind in ("sentiment", "slots", "corrections"):
        for language in LANGUAGES:
            before = {x: set(np.flatnonzero(rng.random(ITEMS) < 0.5).tolist()) for x in PROBES}
            turned = {x: set(np.flatnonzero(rng.random(ITEMS) < 0.1).tolist()) for x in PROBES}
            if kind == "slots":  # all of them towards a stereotype
                turned = {x: set(range(ITEMS)) - before[x] for x in PROBES}
            after = {x: {p: before[p] ^ turned[p] for p in PROBES} for x in labels}
            entry = {"adapter": f"{kind}-{language}", "task": kind, "language": language}
            entry["probes"] = _probed(before, after)
            tasks.append(entry)
    return _result(tasks, labels, PROBES)


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Callable[[Any], None]:
    """Store a result where the report reads it."""
    monkeypatch.setattr(people, "QUALITY", tmp_path)
    return lambda result: (tmp_path / "six.probes.json").write_text(json.dumps(result))


def _rows(table: Any) -> list[dict[str, Any]]:
    heads, rows = table
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_without_a_result_there_is_no_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(people, "QUALITY", tmp_path)
    assert people.page() == MISSING


def test_flips_and_groups_add_up(small, stored) -> None:
    stored(small)
    text = people.page()
    assert "| hydraopt 5.0 % | 50.0 [" in text
    assert "] (20, 0) | +50.0 [" in text
    assert "]; < 0.001 | (20, 0) | " in text
    half = "| mood-en | hydraopt 5.0 % | winobias | about: half | 20 towards a stereotype, 0 away |"
    assert half in text
    flips = {(x["by"], x["of"], x["group"]): x for x in _rows(people.flips())}
    counts = ("flips", "towards", "away", "answers", "low_pct", "high_pct")
    found = flips["all", "all", "about: half"]
    assert [found[x] for x in counts] == ["20", "20", "0", "20", "83.9", "100.0"]
    found = flips["all", "all", "about: other half"]
    assert [found[x] for x in counts] == ["0", "0", "0", "20", "0.0", "16.1"]
    assert flips["adapter", "mood-en", "all"]["flips"] == "20"
    base = _rows(people.preferences())[0]
    assert (base["of"], base["follows the stereotype, chance 50"]) == ("base", "2.5 [0.4, 12.9]")


@pytest.mark.slow
def test_many_adapters_fit_one_page(large, stored) -> None:
    stored(large)
    page = people.page()
    assert len(page.splitlines()) <= 60
    flips = _rows(people.flips())
    assert {x["of"] for x in flips if x["by"] == "language"} == set(LANGUAGES)
    assert sum(x["by"] == "adapter" for x in flips) == 24 * len(PROBES) * 2


def test_who_takes_no_side_has_no_share() -> None:
    silent = {"choices": "uuu", "stereotype": 0, "against": 0}
    assert share_text(*preferred([silent, silent])) == "-"


def test_a_mans_pronoun_is_one_against_a_womans_occupation_or_for_a_mans() -> None:
    women = {"items": 16, "stereotype": 6, "against": 10}
    men = {"items": 14, "stereotype": 13, "against": 1}
    groups = {"occupation of mostly: female": women, "occupation of mostly: male": men}
    assert of_men(groups) == (23, 30)
    assert of_men({"occupation of mostly: female": women}) is None


def test_one_item_asked_of_many_adapters_is_one_item() -> None:
    turned = {"small": {"winobias": {0, 3}}}
    one = {"adapter": "a", "probes": _probed({"winobias": {0}}, turned)}
    alone, alike = moved([one], "small"), moved([one] * 8, "small")
    assert alone.asked.sum() * 8 == alike.asked.sum() == 8 * ITEMS
    # Eight times the same answers tell no more than one of them.
    low, high = ratio_interval(alike.flips, alike.asked)
    assert (low, high) == (0, pytest.approx(8, abs=1))
    assert ratio_interval(alone.flips, alone.asked) == pytest.approx((0.4, 12.9), abs=0.1)
    assert alike.net() == alone.net() == (2.5, low, high, 1.0)
    sexes = pronouns([one] * 8, "small")
    assert sexes is not None
    assert (sexes.towards.sum(), sexes.away.sum()) == (8, 0)


@pytest.mark.parametrize(("towards", "away"), [(4, 0), (8, 2), (14, 4), (30, 20)])
def test_a_direction_of_one_adapter_is_judged_by_the_sign_test(towards, away) -> None:
    net = np.array([1.0] * towards + [-1.0] * away + [0.0] * 5)
    assert signs_p(net) == pytest.approx(binomial_p(towards, towards + away), abs=0.015)
    assert signs_p(3 * net) == signs_p(net)


@pytest.mark.slow
def test_an_interval_covers_the_share_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        # Eight adapters that mostly flip the same items.
        likely = rng.beta(0.5, 2.0, 100)
        flips = rng.binomial(8, likely).astype(float)
        low, high = ratio_interval(flips, np.full(100, 8.0), seed)
        hits += low <= 20 <= high
    assert 0.88 <= hits / 200 <= 0.99
