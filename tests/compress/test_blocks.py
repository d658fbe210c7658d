"""Modules of many tasks in blocks: the same plan and parts as in one, and memory for one block."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.codec import (
    Array,
    BlockStore,
    CoreStore,
    Factors,
    ModuleCore,
    WideCore,
    blocks as blocks_module,
    core as core_module,
    measure_named,
    modes_of,
    plan_module,
)
from tests.compress.core_factors import Pair, low_rank, orthonormal
from tests.merging.merge_cases import modules_of

TASKS, RANK, M, N = 30, 4, 40, 60
PLENTY = 1 << 30
FORMS = ("private", "shared-input", "shared-output", "two-sided", "predicted")


class Reads:
    """A reader that can begin in the middle, and notes what it reads."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        common = orthonormal(rng, N, 8)
        pairs = [low_rank(rng, M, N, RANK, right=common) for _ in range(TASKS)]
        self.pairs: list[Pair] = [(b, a + 0.001 * rng.standard_normal(a.shape)) for b, a in pairs]
        self.read: list[int] = []

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        return self.part(slice(None))

    def part(self, places: slice) -> Iterator[tuple[int, Factors]]:
        for i in range(TASKS)[places]:
            self.read.append(i)
            yield i, Factors(*self.pairs[i])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks have as many tasks."""
    monkeypatch.setattr(blocks_module, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(blocks_module, "LEAST_VECTORS", 7 * RANK + 1)
    return 7


@pytest.fixture(params=["scatter", "strongest"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How directions are found."""
    if request.param == "strongest":
        monkeypatch.setattr(blocks_module, "MOST_EXACT", 8)
    return str(request.param)


def both(reader: Reads) -> tuple[ModuleCore, WideCore]:
    wide = BlockStore({0: reader}, PLENTY, 0).of(0)
    assert isinstance(wide, WideCore)
    return CoreStore([reader]).core(0), wide


def weights_of(core: ModuleCore) -> list[float]:
    return [1 / float(s @ s) for s in core.s]


def test_blocks_are_the_core_in_pieces(few: int) -> None:
    whole, wide = both(Reads())
    assert wide.edges == (0, 7, 14, 21, 28, 30)
    assert wide.contents == whole.contents
    for block, tasks in map(wide.block, range(wide.count)):
        assert block.contents == whole.contents[tasks]
        for i, own in enumerate(range(TASKS)[tasks]):
            a, b = block.thin(i), whole.thin(own)
            assert all(np.array_equal(getattr(a, x), getattr(b, x)) for x in "UsV")


def test_few_vectors_are_one_core() -> None:
    store, reader = BlockStore({0: Reads()}, PLENTY), Reads()
    core = store.of(0)
    assert isinstance(core, ModuleCore)
    assert core.s[3].tolist() == CoreStore([reader]).core(0).s[3].tolist()


def test_spaces_are_those_of_all_tasks(few: int, either: str) -> None:
    whole, wide = both(Reads())
    spaces = [core.spaces(weights_of(whole)) for core in (whole, wide)]
    for number, side in enumerate(("left", "right")):
        one, other = spaces[0][number], spaces[1][number]
        np.testing.assert_allclose(other.values, one.values[: other.values.size], rtol=1e-5)

        def scatter(core: ModuleCore | WideCore, space, side: str = side) -> Array:
            directions = core.directions(space, side, space.values.size)
            return (directions * space.values**2) @ directions.T

        expected = scatter(whole, one)
        np.testing.assert_allclose(scatter(wide, other), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("price", [1e-5, 1e-4, 1e-3])
def test_a_plan_over_blocks_is_that_over_all(few: int, either: str, price: float) -> None:
    whole, wide = both(Reads())
    about = weights_of(whole), price, measure_named("bias-aware"), modes_of(FORMS)
    one, other = plan_module(whole, *about), plan_module(wide, *about)
    assert other.bits == pytest.approx(one.bits, rel=0.01)
    assert other.total == pytest.approx(one.total, rel=0.01)
    assert [task.mode for task in other.tasks] == [task.mode for task in one.tasks]
    assert any(task.mode.code for task in one.tasks)


def test_room_changes_what_is_read_again_and_nothing_else(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, reads, block = [], [], 4 * 7 * RANK * (M + N)
    for room, vectors, aside in (
        (0, 0, 0),
        (PLENTY, 2 * block, 0),
        (PLENTY, PLENTY, 0),
        (0, 0, 2 * block),
        (0, block, PLENTY),
    ):
        monkeypatch.setattr(blocks_module, "MOST_ASIDE", aside)
        reader = Reads()
        store = BlockStore({0: reader}, room, vectors)
        about = [1.0] * TASKS, 1e-5, measure_named("bias-aware"), modes_of(FORMS)
        for _ in range(2):
            plans.append(plan_module(store.of(0), *about))
        reads.append(len(reader.read))
    assert len({(p.bits, p.total) for p in plans}) == 1
    # Once, and, where there is no room, for the spaces and the prices of each plan.
    assert reads == [5 * TASKS, TASKS + 3 * 16, TASKS, TASKS + 4 * 16, TASKS]


def test_a_block_is_let_go_before_the_next(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Array]] = []
    alive: list[int] = []
    decomposed = core_module.decomposed

    def noted(pairs: Any) -> Any:
        alive.append(sum(x() is not None for x in made))
        whole = decomposed(pairs)
        made.append(weakref.ref(whole[2][0]))
        return whole

    for module in (core_module, blocks_module):
        monkeypatch.setattr(module, "decomposed", noted)
    monkeypatch.setattr(blocks_module, "MOST_ASIDE", 0)
    wide = BlockStore({0: Reads()}, PLENTY, 0).of(0)
    wide.spaces([1.0] * TASKS)
    # The first one is looked at before anybody knows whether there are more.
    assert len(alive) == 2 * wide.count
    assert max(alive) <= 1


@pytest.fixture
def many(make_adapter, tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / f"task-{i:02d}", modules_of(i)) for i in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"size": "20%"}, {"error": 0.1}])
def test_a_merge_in_blocks_is_as_good_and_alike_for_any_workers(
    many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit
) -> None:
    from hydraopt.merging import Local, passes as portable

    whole = merge(many, tmp_path / "whole", workers=1, **limit)
    monkeypatch.setattr(blocks_module, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(blocks_module, "LEAST_VECTORS", 20)
    monkeypatch.setattr(portable, "WORTH", 1)
    made = []
    for memory in (None, 1):
        result = merge(many, tmp_path / "blocks", workers=Local(1, memory=memory), **limit)
        made.append((tmp_path / "blocks").read_bytes())
    shards = Local(1, work=tmp_path / "work")
    for _ in range(2):
        merge(many, tmp_path / "blocks", workers=shards, **limit)
        made.append((tmp_path / "blocks").read_bytes())
    assert len(set(made)) == 1
    assert result.size == pytest.approx(whole.size, rel=0.01)
    errors = [np.mean(list(x.errors.values())) for x in (whole, result)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
    assert sorted(open_bundle(tmp_path / "blocks")) == sorted(open_bundle(tmp_path / "whole"))
