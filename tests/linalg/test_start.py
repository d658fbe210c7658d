"""Initial A: the numbers of PyTorch's generator, from any place on."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from hydraopt.codec import Drawn, Generator, KnownStart

LAST = (1 << 32) - 1
FAR = 1 << 15


def sequence(seed: int, count: int) -> NDArray[np.int64]:
    """Return the first numbers of a seed, by numpy's own seeding."""
    outputs = np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4")
    return (outputs & 0xFFFFFF).astype(np.int64) - (1 << 23)


@pytest.mark.parametrize("seed", [0, 42, LAST])
def test_numbers_are_those_of_numpy_in_any_order(seed: int) -> None:
    wanted = sequence(seed, 4 * FAR)
    generator = Generator(seed)
    for first, count in (
        (0, 1), (623, 2), (3 * FAR + 5, 700), (FAR - 1, 2), (0, 3), (FAR, 2 * FAR), (7, 0),
        (2 * FAR, 1), (3 * FAR - 1, 1), (3 * FAR, 9),
    ):  # fmt: skip
        assert np.array_equal(generator.numbers(first, count), wanted[first : first + count])


@pytest.mark.parametrize("seed", [0, 42, LAST])
def test_torch_draws_these_numbers(seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    drawn = torch.empty(1000).uniform_(-0.25, 0.25).numpy()
    wanted = Generator(seed).numbers(0, 1000) * 2.0**-25
    np.testing.assert_allclose(drawn, wanted, atol=2.0**-26)


def test_threads_may_share_a_start() -> None:
    start, wanted = KnownStart(7, 4 * FAR), sequence(7, 4 * FAR)
    places = [(i * 7919 * 13) % (4 * FAR - 64) for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: start.initial(x, 1, 64).vectors[:, 0], places))
    for place, vector in zip(places, found, strict=True):
        assert np.array_equal(vector, wanted[place : place + 64] * 2.0**-26)


@pytest.mark.parametrize(("n", "octaves"), [(1, 0), (4, 1), (5, 2), (16, 2), (17, 3), (4096, 6)])
def test_an_initial_matrix_is_on_a_grid(n: int, octaves: int) -> None:
    drawn = Drawn(KnownStart(42, 10**6), 100, 3)
    basis = drawn.basis(n)
    wanted = sequence(42, 100 + 3 * n)[100:].reshape(3, n).T
    assert np.array_equal(basis.vectors, wanted * 2.0 ** -(23 + octaves))


def test_a_start_takes_no_room_where_it_is_sent() -> None:
    start = KnownStart(42, 1 << 22)
    start.initial((1 << 22) - 64, 1, 64)
    assert len(pickle.dumps(start)) < 200
