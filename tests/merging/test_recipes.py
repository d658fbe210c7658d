"""What a recipe says of a merge that was changed since."""

from __future__ import annotations

import pytest

from hydraopt.merging.recipe import MergeRecipe, RefreshRecipe


@pytest.mark.parametrize("limit", [None, "size"])
@pytest.mark.parametrize("decoded", [False, True])
def test_a_refresh_looks_at_no_answers(limit: str | None, decoded: bool) -> None:
    """All tasks are coded again: what was looked at or trained before is no longer in them."""
    looked = {"sensitivity": 3, "rescaled": 2, "judged": 8, "refit": 8}
    before = MergeRecipe("bias-aware", "harm", 0.01, ("private",), **looked).to_json()
    assert looked.keys() <= before.keys()
    after = RefreshRecipe(before, limit, 1e3 if limit else None, decoded).to_json()
    assert not looked.keys() & after.keys()
    assert after["measure"] == "bias-aware"
    assert after["limit"] == (limit or "harm")
