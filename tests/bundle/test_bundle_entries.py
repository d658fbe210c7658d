"""Small entries of a task in the manifest: measured harm, history, start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle import Added, Harm, Manifest, TaskEntry, open_bundle
from hydraopt.bundle.limits import count_entries
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import Parts, tiny

HARM = Harm(changed=3, answers=48, likely=0.0471, kl=0.0123, held_out=True)
ADDED = Added("2026-02-28", "0123456789abcdef")


def with_entries(**entries: Any) -> Parts:
    """A bundle of two tasks, of which the first has these entries."""
    parts = tiny(("de", "en"))
    first, *others = parts.manifest.tasks
    tasks = (replace(first, **entries), *others)
    return replace(parts, manifest=replace(parts.manifest, tasks=tasks))


def test_they_come_back_from_a_file(tmp_path: Path) -> None:
    parts = with_entries(harm=HARM, added=ADDED)
    parts.write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest == parts.manifest
    assert (bundle["de"].entry.harm, bundle["de"].entry.added) == (HARM, ADDED)
    assert (bundle["en"].entry.harm, bundle["en"].entry.added) == (None, None)


def test_they_are_lists_and_cost_nothing_where_they_are_not() -> None:
    """As the format's page says, without the code that writes it."""
    value = with_entries(harm=HARM, added=ADDED).manifest.to_json()
    assert value["tasks"]["harm"] == [[3, 48, 0.0471, 0.0123, True], None]
    assert value["tasks"]["added"] == [["2026-02-28", "0123456789abcdef"], None]
    plain = with_entries().manifest.to_json()
    assert not {"harm", "added", "start"} & plain["tasks"].keys()
    history = with_entries(added=ADDED).manifest.to_json()
    assert count_entries(history) == count_entries(plain) + 2


@pytest.mark.parametrize(
    "harm",
    [
        Harm(0, 1, 0.0, 0.0, False),
        Harm(5, 7, 1.0, 123.456, True),
        Harm(1, 9, 0.123456, 1e-9, True),
        Harm(1, 8, np.float64(0.1), np.float64(0.2), True),
    ],
)
def test_harm_keeps_three_digits(harm: Harm) -> None:
    kept = TaskEntry("de", 0, harm=harm).harm
    assert kept is not None
    assert (kept.changed, kept.answers, kept.held_out) == (
        harm.changed, harm.answers, harm.held_out
    )  # fmt: skip
    assert kept.likely == pytest.approx(harm.likely, rel=0.005, abs=0)
    assert kept.kl == pytest.approx(harm.kl, rel=0.005, abs=0)
    assert type(kept.likely) is float


WRONG_HARMS = (
    (9, 8, 0.1, 0.1, True), (-1, 8, 0.1, 0.1, True), (0, 0, 0.1, 0.1, True),
    (0.5, 8, 0.1, 0.1, True), (True, 8, 0.1, 0.1, True), (0, 10**9 + 1, 0.1, 0.1, True),
    (1, 8, 1.01, 0.1, True), (1, 8, -0.01, 0.1, True), (1, 8, None, 0.1, True),
    (1, 8, True, 0.1, True), (1, 8, "0.1", 0.1, True), (1, 8, 0.1, -0.1, True),
    (1, 8, 0.1, 10**400, True), (1, 8, 0.1, 0.1, 1), (1, 8, 0.1, 0.1, "yes"),
)  # fmt: skip
ENDLESS = ((1, 8, math.nan, 0.1, True), (1, 8, 0.1, math.nan, True), (1, 8, 0.1, math.inf, True))


@pytest.mark.parametrize("values", [*WRONG_HARMS, *ENDLESS])
def test_a_harm_that_cannot_be(values: tuple[Any, ...]) -> None:
    with pytest.raises(BundleFormatError):
        Harm(*values)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("harm", list(x)) for x in WRONG_HARMS),
        ("harm", [1, 8, 0.1, 0.1]),
        ("harm", {"changed": 1}),
        ("harm", "none"),
        ("harm", [1, 8, 0.1, 1.797e308, True]),  # rounded beyond all
        ("added", []),
        ("added", ["2026-02-28"]),
        ("added", ["2026-02-28", "0123456789abcdef", 1]),
        ("added", ["2026-02-29", "0123456789abcdef"]),
        ("added", ["20260228", "0123456789abcdef"]),
        ("added", ["2026-W09-6", "0123456789abcdef"]),
        ("added", ["2026-02-28", "0123456789ABCDEF"]),
        ("added", ["2026-02-28", "0123456789abcde"]),
        ("added", ["2026-02-28", "0123456789abcdef\n"]),
        ("added", ["２０２６-02-28", "0123456789abcdef"]),
        ("added", [20260228, "0123456789abcdef"]),
        ("added", ["2026-02-28", None]),
        ("added", "2026-02-28"),
        ("added", {"day": "2026-02-28"}),
    ],
)
def test_nonsense_is_refused(column: str, value: Any) -> None:
    manifest = with_entries(harm=HARM, added=ADDED).manifest.to_json()
    manifest["tasks"][column] = [value, None]
    with pytest.raises(BundleFormatError):
        Manifest.from_json(manifest)


@pytest.mark.parametrize(
    "values", [{"error": 10**400}, {"error": True}, {"bias_scales": {"q": 10**400}}]
)
def test_a_task_checks_its_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(BundleFormatError):
        TaskEntry("de", 0, **values)
