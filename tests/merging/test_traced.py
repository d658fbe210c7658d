"""Starts in a merge: each adapter is traced once, unless the merge has no use for its start."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import shrink, verify_bundle
from hydraopt.adapters import read_adapters
from hydraopt.bundle import open_bundle
from hydraopt.merging import Limit, Look, MergeOptions, add, merge, prepare, refresh
from tests.conftest import MakeAdapter
from tests.drawn import drawn_modules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    """Three adapters: two of seed 42, one of seed 0."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, seed, change in (("de", 42, 0.3), ("en", 42, 0.5), ("fr", 0, 0.3)):
        make_adapter(folder / name, drawn_modules(seed, change=change))
    return folder


def test_a_merge_knows_the_start_of_each_adapter(folder: Path) -> None:
    seen = []
    options = MergeOptions(progress=lambda stage, done, total: seen.append((done, total)))
    loaded = prepare(folder / "*", options).loaded.adapters
    initial = [[module.initial for module in x.modules.values()] for x in loaded]
    assert [{x and x.start.seed for x in each} for each in initial] == [{42}, {42}, {0}]
    assert seen


@pytest.mark.parametrize(
    "options", [MergeOptions(trace=False), MergeOptions(limit=Limit(lossless=True))]
)
def test_starts_are_not_traced_for_nothing(folder: Path, options: MergeOptions) -> None:
    given = read_adapters([folder / "*"])
    assert prepare(given, options).loaded.adapters == list(given)
    assert {x.initial for adapter in given for x in adapter.modules.values()} == {None}


def test_a_start_without_a_started_record_is_no_hindrance(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Traced, but so far from its start, or so empty, that nothing is written over it."""
    far, zero = drawn_modules(42, change=2.0, r=32), drawn_modules(42)
    make_adapter(tmp_path / "far", far)
    make_adapter(tmp_path / "zero", {path: (0 * b, a) for path, (b, a) in zero.items()})
    made, less = tmp_path / "made", tmp_path / "less"
    forms = merge(tmp_path / "*", made, size="20%", workers=1).forms
    assert forms == {"nothing": 4, "private": 4}
    assert shrink(made, less, size="10%", workers=1).size < made.stat().st_size
    assert not verify_bundle(less).problems
    refresh(made, adapters=[tmp_path / "zero"], size="20%", workers=1)
    assert not verify_bundle(made).problems


@pytest.mark.slow
def test_starts_of_more_numbers_than_the_bytes_warrant_are_left_out(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Adapters that change nothing take no bytes, and each start may be of millions of numbers."""
    pairs = drawn_modules(42, before=2_000_000)
    for i in range(9):
        zero = {path: (0 * b, (i + 1) * a) for path, (b, a) in pairs.items()}
        make_adapter(tmp_path / f"zero{i}", zero)
    make_adapter(tmp_path / "one", pairs)
    path = tmp_path / "made"
    looks: list[str] = []
    look = Look(sensitivity=lambda: looks.append("measured") or {})  # type: ignore[func-returns-value]
    merge(tmp_path / "zero*", path, workers=1, look=look)
    assert looks == ["measured"]
    assert {x.start for x in open_bundle(path).manifest.tasks} == {None}
    merge(tmp_path / "one", path, size="10%", workers=1)
    add(path, tmp_path / "zero0", workers=1)
    assert [bool(x.start) for x in open_bundle(path).manifest.tasks] == [True, False]


@pytest.mark.slow
def test_bundles_name_the_seeds_of_the_tasks(folder: Path, tmp_path: Path) -> None:
    """A caller of merge and add may leave the search out; a refresh from originals traces them."""

    def seeds(path: Path) -> dict[str, int | None]:
        return {x.name: x.start and x.start.seed for x in open_bundle(path).manifest.tasks}

    for trace, found in ((True, (42, 0)), (False, (None, None))):
        path = tmp_path / f"{trace}.hydra.safetensors"
        merge(folder / "de", path, size="20%", trace=trace, workers=1)
        add(path, folder / "fr", trace=trace, workers=1)
        assert seeds(path) == dict(zip(("de", "fr"), found, strict=True))
    refresh(path, adapters=[folder / "de", folder / "fr"], size="20%", workers=1)
    assert seeds(path) == {"de": 42, "fr": 0}
