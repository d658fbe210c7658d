"""What was measured of a task's answers, in the manifest."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.collection.opening import open_bundle
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import Parts, tiny
from tests.bundle.golden.make import HARM, SECOND
from tests.raising import raises

NUMBERS = st.floats(0, 1e6)
SHARES = st.floats(0, 1)


@st.composite
def harms(draw: st.DrawFn) -> Harm:
    answers = draw(st.integers(1, 10**9))
    changed = draw(st.integers(0, answers))
    return Harm(changed, answers, draw(SHARES), draw(NUMBERS), draw(st.booleans()))


def measured(harm: Harm | None) -> Parts:
    """A bundle of two tasks, of which the first has this harm."""
    parts = tiny(("de", "en"))
    first, second = parts.manifest.tasks
    tasks = (replace(first, harm=harm), second)
    return replace(parts, manifest=replace(parts.manifest, tasks=tasks))


@given(harms())
def test_a_manifest_equals_itself_through_json(harm: Harm) -> None:
    manifest = measured(harm).manifest
    value = json.loads(json.dumps(manifest.to_json(), allow_nan=False))
    assert Manifest.from_json(value) == manifest
    again = Manifest.from_json(value).to_json()
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True)


@given(harms())
def test_what_is_kept_is_near(harm: Harm) -> None:
    kept = TaskEntry("de", 0, harm=harm).harm
    assert kept is not None
    assert (kept.changed, kept.answers, kept.held_out) == (
        harm.changed,
        harm.answers,
        harm.held_out,
    )
    assert kept.likely == pytest.approx(harm.likely, rel=0.005, abs=0)
    assert kept.kl == pytest.approx(harm.kl, rel=0.005, abs=0)


def test_a_task_without_them_costs_no_byte() -> None:
    value = measured(None).manifest.to_json()
    assert "harm" not in value["tasks"]
    assert value == tiny(("de", "en")).manifest.to_json()


def test_by_hand() -> None:
    """As the format's page says, without the code that writes it."""
    value = measured(HARM).manifest.to_json()
    assert value["tasks"]["harm"] == [[3, 48, 0.0471, 0.0123, True], None]


def test_the_golden_files() -> None:
    tasks = {task.name: task for task in open_bundle(SECOND).manifest.tasks}
    assert (tasks["fr"].harm, tasks["de"].harm) == (HARM, None)


def test_through_a_file(tmp_path: Path) -> None:
    parts = measured(HARM)
    parts.write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest == parts.manifest
    assert bundle["de"].entry.harm == HARM


NAN = math.nan
WRONG_HARMS = {
    "more than there are": ((9, 8, 0.1, 0.1, True), "answers that change.* expected 0 to 8"),
    "fewer than none": ((-1, 8, 0.1, 0.1, True), "answers that change"),
    "no answers": ((0, 0, 0.1, 0.1, True), "answers of a harm"),
    "half an answer": ((0.5, 8, 0.1, 0.1, True), "answers that change"),
    "true answers": ((True, 8, 0.1, 0.1, True), "answers that change"),
    "answers beyond the limit": ((0, 10**9 + 1, 0.1, 0.1, True), "answers of a harm"),
    "a share above 1": ((1, 8, 1.01, 0.1, True), "likely share"),
    "a share below 0": ((1, 8, -0.01, 0.1, True), "likely share"),
    "no share": ((1, 8, None, 0.1, True), "likely share"),
    "a share that is true": ((1, 8, True, 0.1, True), "likely share"),
    "a share in words": ((1, 8, "0.1", 0.1, True), "likely share"),
    "a negative KL": ((1, 8, 0.1, -0.1, True), "KL an answer"),
    "a KL of 401 digits": ((1, 8, 0.1, 10**400, True), "KL an answer"),
    "held out or not": ((1, 8, 0.1, 0.1, 1), "held_out"),
    "held out in words": ((1, 8, 0.1, 0.1, "yes"), "held_out"),
}
ENDLESS = {
    "NaN share": ((1, 8, NAN, 0.1, True), "likely share"),
    "NaN KL": ((1, 8, 0.1, NAN, True), "KL an answer"),
    "endless KL": ((1, 8, 0.1, math.inf, True), "KL an answer"),
}


@pytest.mark.parametrize(("values", "words"), [*(WRONG_HARMS | ENDLESS).values()])
def test_a_harm_that_cannot_be(values: tuple[Any, ...], words: str) -> None:
    with pytest.raises(BundleFormatError, match=words):
        Harm(*values)


def test_a_task_checks_what_it_is_given() -> None:
    for changes, facts in (
        ({"harm": (1, 8, 0.1, 0.1, True)}, {"got": "(1, 8, 0.1, 0.1, True)"}),
        ({"error": 10**400}, {}),
        ({"error": True}, {}),
        ({"bias_scales": {"q": 10**400}}, {}),
    ):
        values: dict[str, Any] = changes
        with raises(BundleFormatError, **facts):
            TaskEntry("de", 0, **values)


WRONG_COLUMNS: dict[str, tuple[str, Any, str]] = {
    **{f"harm: {name}": ("harm", list(x), words) for name, (x, words) in WRONG_HARMS.items()},
    "harm: four values": ("harm", [1, 8, 0.1, 0.1], "harm of a task"),
    "harm: an object": ("harm", {"changed": 1}, "column 'harm'|harm of a task"),
    "harm: a text": ("harm", "none", "harm of a task"),
    "harm: KL that is rounded beyond all": ("harm", [1, 8, 0.1, 1.797e308, True], "KL an answer"),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_a_hostile_manifest_is_refused(name: str) -> None:
    column, cell, words = WRONG_COLUMNS[name]
    value = measured(HARM).manifest.to_json()
    value["tasks"][column][0] = cell
    with pytest.raises(BundleFormatError, match=words):
        Manifest.from_json(value)


def test_numbers_of_numpy_are_numbers() -> None:
    harm = Harm(1, 8, np.float64(0.1), np.float64(0.2), True)
    kept = TaskEntry("de", 0, harm=harm).harm
    assert kept == Harm(1, 8, 0.1, 0.2, True)
    assert type(kept.likely) is float
