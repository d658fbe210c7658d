"""What a recipe says of a merge that was changed since."""

from __future__ import annotations

import pytest

from hydraopt.bundle import answer_tokens_in
from hydraopt.codec import FORMS
from hydraopt.merging import merge_recipe
from hydraopt.merging.limits import forms_in, refresh_recipe, shrink_recipe

LOOKED, TRAINED = {"sensitivity": 3, "judged": 8}, {"refit": 8}
BEFORE = merge_recipe(
    "bias-aware",
    "harm",
    0.01,
    ("private",),
    True,
    unit="nats",
    **LOOKED,
    **TRAINED,
    answer_tokens=9,
)


@pytest.mark.parametrize("limit", [None, "size"])
@pytest.mark.parametrize("decoded", [False, True])
def test_a_refresh_looks_at_no_answers(limit: str | None, decoded: bool) -> None:
    """All tasks are coded again, by errors; what was trained is in those that are decoded."""
    after = refresh_recipe(BEFORE, limit, 1e3 if limit else None, decoded)
    assert after.keys() & (LOOKED.keys() | TRAINED.keys()) == (TRAINED.keys() if decoded else set())
    assert after["measure"] == "bias-aware"
    # Without a new limit nobody knows any more whether one of harm is kept.
    assert (after.get("limit"), after.get("value")) == (limit, 1e3 if limit else None)
    assert "unit" not in after


def test_a_limit_that_does_not_hang_on_answers_stays_in_a_refresh() -> None:
    before = {**BEFORE, "limit": "error", "value": 0.1}
    after = refresh_recipe(before, None, None, False)
    assert (after["limit"], after["value"]) == ("error", 0.1)


@pytest.mark.parametrize("decoded", [False, True])
def test_what_was_fair_is_not_so_refreshed(decoded: bool) -> None:
    assert BEFORE["fair"] is True
    assert refresh_recipe(BEFORE, None, None, decoded)["fair"] is False


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (["private"], ("private",)),
        (["two-sided", "private", "other"], ("private", "two-sided")),
        (["other"], tuple(FORMS)),
        ("private", tuple(FORMS)),
        (None, tuple(FORMS)),
    ],
)
def test_the_forms_of_a_recipe(said: object, read: tuple[str, ...]) -> None:
    assert forms_in({} if said is None else {"forms": said}) == read


def test_a_shrink_looks_at_no_answers_and_keeps_what_was_trained() -> None:
    assert (LOOKED | TRAINED).items() <= BEFORE.items()
    after = shrink_recipe(BEFORE, "plain", "size", 1000.0)
    assert after == {
        "measure": "plain",
        "fair": False,
        "forms": ["private"],
        "limit": "size",
        "value": 1000.0,
        "shrunk": True,
        "errors": "estimated",
        "answer_tokens": 9,
        **TRAINED,
    }


@pytest.mark.parametrize(
    ("said", "read"),
    [(None, 128), (1, 1), (1024, 1024), (1025, 128), (0, 128), (True, 128), ("9", 128)],
)
def test_how_much_of_an_answer_was_judged(said: object, read: int) -> None:
    assert answer_tokens_in({} if said is None else {"answer_tokens": said}) == read
