"""Tasks near their initial A are written over it."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import (
    FORMS,
    CoreStore,
    Drawn,
    EncodedModule,
    Factors,
    KnownStart,
    Starts,
    Way,
    encode_module,
    modes_of,
    plan_module,
)
from hydraopt.codec.costs import MEASURES
from hydraopt.codec.sides import PRIVATE
from hydraopt.codec.stream import StreamWriter
from tests.compress.core_factors import Pair, relative_error

M, N, R, TASKS = 48, 256, 6, 3
DRAWN = {i: Drawn(KnownStart(i, R * N), 0, R) for i in range(TASKS)}


def tasks(far: float) -> list[Pair]:
    """Tasks whose A is their initial A and ``far`` of something else, of one direction."""
    pairs = []
    for i, drawn in DRAWN.items():
        rng = np.random.default_rng(i)
        other = np.outer(rng.standard_normal(R), rng.standard_normal(N)) / 16
        a = drawn.basis(N).vectors.T + far * other
        pairs.append((rng.standard_normal((M, R)) * 0.7 ** np.arange(R), a))
    return pairs


def encoded(pairs: list[Pair], forms: list[str], starts: Starts | None) -> EncodedModule:
    core = CoreStore([lambda: ((i, Factors(*pair)) for i, pair in enumerate(pairs))]).core(0)
    weights = [1 / float(s @ s) for s in core.s]
    measure = MEASURES["frobenius"]
    plan = plan_module(core, weights, 1e-5, measure, modes_of(forms), None, starts)
    return encode_module(core, plan, measure, None, 1, starts)


def size_of(module: EncodedModule) -> int:
    writer = StreamWriter()
    for record in module.records:
        assert record is not None
        for block in (*record.left.blocks, *record.right.blocks):
            writer.block(block)
    return writer.size


@pytest.mark.parametrize(("far", "own"), [(0.0, 0), (0.5, 1)])
def test_it_takes_fewer_bytes_at_no_more_error(far: float, own: int) -> None:
    pairs = tasks(far)
    private = encoded(pairs, ["private"], None)
    started = encoded(pairs, list(FORMS), Starts(DRAWN))
    for i, record in enumerate(started.records):
        assert record is not None
        assert record.mode.right is Way.STARTED
        assert record.right.drawn == DRAWN[i]
        residual = record.right.residual
        assert (residual.coordinates.levels.shape[1] if residual else 0) == own
        assert relative_error(record.factors, pairs[i]) < 0.1
    assert size_of(started) < 0.6 * size_of(private)


def test_a_task_without_an_initial_matrix_is_written_without_it() -> None:
    pairs = tasks(0.5)
    starts = Starts({0: DRAWN[0], 1: None})
    records = encoded(pairs, ["started"], starts).records
    modes = [record.mode for record in records if record is not None]
    assert modes[0].right is Way.STARTED
    assert modes[1:] == [PRIVATE, PRIVATE]


def test_without_a_start_the_form_is_private() -> None:
    records = encoded(tasks(0.5), ["started"], None).records
    assert all(record is not None and record.mode == PRIVATE for record in records)


def test_an_adapter_that_is_its_start_has_nothing_to_lose() -> None:
    for measure in MEASURES.values():
        with np.errstate(all="raise"):
            cost = measure.left_outside(np.zeros((2, R)), np.array([1e9, 0.0]))
        assert not cost.any()
