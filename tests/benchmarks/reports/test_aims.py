"""Each aim has a row, measured or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.reports import aims as module
from benchmarks.reports.aims import aims
from benchmarks.reports.same_rows import ORIGINAL, PROMPTED, Result

METHODS: dict[str, dict[str, Any]] = {
    "ten": {"method": "hydraopt", "setting": "10%", "share": 0.1},
    "five": {"method": "hydraopt", "setting": "5%", "share": 0.05},
    "learnt": {"method": PROMPTED, "setting": "5%", "share": 0.05},
    "large": {"method": "coded svd", "setting": "1", "share": 0.2},
    "small": {"method": "coded svd", "setting": "2", "share": 0.08},
    "groups": {"method": "group", "setting": "4 bit", "share": 0.15},
}
KL = {"ten": 0.01, "five": 0.04, "learnt": 0.01, "large": 0.01, "small": 0.1, "groups": 0.02}
CHANGED = {"five": 2, "learnt": 1}


def result(name: str) -> Result:
    """One task of four rows, of which two are lost at 5 %, and one of them with prompts."""
    rows, values, numbers = 4, {}, {ORIGINAL: np.ones((4, 1))}
    for label, kl in KL.items():
        changed = np.arange(rows) < CHANGED.get(label, 0)
        values[label] = np.stack([changed.astype(float), np.full(rows, kl)], axis=1)
        numbers[label] = 1.0 - changed[:, None]
    return Result(name, "b-270m", METHODS, {"x": values}, {"x": numbers}, {"x": "exact match"})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr(module, "results", lambda: [result("gemma3-5x8")])
    return [[x.strip() for x in line.split("|")[1:-1]] for line in aims().splitlines()[2:]]


def test_drops_are_those_of_each_size_measured_or_not(lines) -> None:
    drops = {(what, size): found for what, _, size, _, found, _ in lines if "drop" in what}
    assert drops["mean drop", "10%"].startswith("+0.0 %")
    assert drops["mean drop", "5%"].startswith("+50.0 %")
    assert drops["mean drop, prompts", "5%"].startswith("+25.0 %")
    assert drops["mean drop, prompts", "2%"] == "not measured"
    met = {(what, size): x for what, _, size, _, _, x in lines if "drop" in what}
    # No row of four is lost at 10 %, but a loss of more than 0.2 % is possible.
    assert met["mean drop", "10%"] == "in the mean"
    assert met["mean drop", "5%"] == "no"
    assert met["mean drop, prompts", "2%"] == "-"


def test_bytes_are_at_the_kl_of_each_size_or_of_the_rival(lines) -> None:
    (coded,) = (x for x in lines if "coded" in x[0])
    assert coded[2:] == ["10%, 5%", "1.5 times ours", "2.00, 2.30", "2 of 2"]
    (others,) = (x for x in lines if "do not code" in x[0])
    assert others[4:] == ["2.12 (group 4 bit)", "yes"]


def test_fewer_answers_change_with_prompts(lines) -> None:
    (changed,) = (x for x in lines if "answers changed" in x[0])
    assert changed[2:] == ["5%", "33 % fewer", "50 % fewer", "yes"]


def test_no_share_is_fewer_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGED, "five", 0)
    monkeypatch.setattr(module, "results", lambda: [result("gemma3-5x8")])
    assert "answers changed" not in aims()


def test_each_set_has_its_aims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "results", lambda: [result("qwen25coder-code5")])
    (large, small) = (x for x in aims().splitlines() if "mean drop" in x)
    assert "| 10% | at most 1.0 % | not measured |" in large
    assert "| 5% | at most 4.0 % | +25.0 % (" in small


def test_a_bound_that_says_nothing_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for label, share, kl in (("taught", 0.03, 0.02), ("taught less", 0.02, 0.05)):
        about = {"method": "coded svd, prompts", "setting": label, "share": share}
        monkeypatch.setitem(METHODS, label, about)
        monkeypatch.setitem(KL, label, kl)
    monkeypatch.setattr(module, "results", lambda: [result("gemma3-5x8")])
    text = aims()
    assert "bytes of coded svd, at equal KL" in text
    assert "bytes of coded svd, prompts, at equal KL" not in text


def test_an_upper_bound_does_not_reach_an_aim(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both sizes of the rival have less KL than ours at 5 %, the smaller in four times the bytes.
    monkeypatch.setitem(KL, "large", 0.035)
    monkeypatch.setitem(KL, "small", 0.03)
    monkeypatch.setitem(METHODS["small"], "share", 0.3)
    monkeypatch.setattr(module, "results", lambda: [result("gemma3-5x8")])
    (coded,) = (x for x in aims().splitlines() if "coded" in x)
    assert coded.endswith("| at least 3.00, at most 4.00 | 1 of 2 |")
