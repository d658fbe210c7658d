"""What a page is made of where the originals that were given are not those that it compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hydraopt.errors import UsageError
from hydraopt.merging import merge
from hydraopt.report import build, builder as build_module
from hydraopt.report.builder import _compared, collect
from tests.conftest import MakeAdapter
from tests.merging.merge_cases import modules_of
from tests.report.conftest import NAMES, Made

NOT_COMPARED = "originals_unused"


def test_a_lossless_bundle_with_its_originals_has_a_page(made: Made, tmp_path: Path) -> None:
    path, originals = tmp_path / "exact.hydra.safetensors", sorted(made.adapters.iterdir())
    merge(made.adapters / "*", path, lossless=True)
    for given in (originals, []):
        page = build(path, given)
        assert (page.count, page.alike) == (6, None)
        assert bool(given) == any(note.code == NOT_COMPARED for note in page.notes)


def test_originals_beside_those_that_are_compared_are_told_of(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "MOST_COMPARED", 2)
    page = build(made.bundle, [made.adapters / NAMES[0]])
    assert page.alike is None
    assert any(note.code == NOT_COMPARED for note in page.notes)
    # Beside others, whose likeness is shown.
    page = build(made.bundle, [made.adapters / name for name in (NAMES[0], *NAMES[3:5])])
    assert page.alike is not None
    assert set(page.alike.tasks) == set(NAMES[3:5])
    assert not any(note.code == NOT_COMPARED for note in page.notes)


def test_what_is_kept_bit_by_bit_is_not_said_to_lack_originals(made: Made) -> None:
    known = collect(made.bundle)
    known.tasks[0] = replace(known.tasks[0], lossless=True)
    assert _compared(known) == {task.name for task in known.tasks[1:]}


def test_originals_of_no_task_at_all_are_refused(
    made: Made, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    odd = [
        make_adapter(tmp_path / f"odd{i}", {"h.0.q": (np.ones((4, 2)), np.ones((2, 4)))})
        for i in range(10)
    ]
    with pytest.raises(UsageError) as said:
        build(made.bundle, odd)
    assert "odd7 and 2 more" in str(said.value)
    assert "moods-en" in str(said.value)


def test_a_bundle_of_differences_from_the_base_has_a_page(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """The page compares modules alone, so it needs no base model."""
    key, base = "base_model.model.model.embed_tokens.weight", tmp_path / "base"
    own = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float16)
    base.mkdir()
    save_file({"embed_tokens.weight": own}, base / "model.safetensors")
    adapters = [
        make_adapter(
            tmp_path / name, modules_of(seed), extras={key: (own + 0.003).astype(np.float16)}
        )
        for seed, name in enumerate(("a", "b"))
    ]
    merge(adapters, tmp_path / "x.hydra.safetensors", max_error=0.1, base=base, workers=1)
    for originals in ([], adapters):
        assert build(tmp_path / "x.hydra.safetensors", originals).alike is not None
