"""Records with the shared and the own part of a task apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.codec import (
    FORMS,
    Drawn,
    KnownStart,
    Mode,
    StreamReader,
    Way,
    read_record,
    read_split_record,
    write_record,
)
from hydraopt.codec.sides import MODES, quantise_basis
from hydraopt.codec.stream import StreamWriter
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import record
from tests.conftest import write_adapter
from tests.raising import raises

START = KnownStart(42, 10_000)


@pytest.mark.parametrize("mode", MODES, ids=lambda x: f"{x.left.name}-{x.right.name}")
def test_a_split_record_multiplies_out_to_the_same_bits(mode: Mode) -> None:
    rng = np.random.default_rng(mode.code)
    m, n, k, p, q = 12, 9, 3, 4, 5
    left, right = (quantise_basis(8 * rng.standard_normal(s)).basis for s in ((m, p), (n, q)))
    b, a = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    drawn = Drawn(START, 700, 2) if mode.right is Way.STARTED else None
    written = record(b, a, (mode.left, mode.right), (left, right), drawn=drawn)
    writer = StreamWriter()
    for each in (written, None, written):
        write_record(writer, each, with_mode=True)
    data = writer.finish()
    one, other = StreamReader(data), StreamReader(data)
    for count in (k, 0, k):
        coded = read_record(one, m, n, (left, right), START)
        split = read_split_record(other, m, n, p, q, START)
        assert split.count == count
        assert other.position == one.position
        factors = split.factors(left, right)
        if coded is not None:
            np.testing.assert_array_equal(factors.B, coded.factors.B)
            np.testing.assert_array_equal(factors.A, coded.factors.A)
            assert split.mode == coded.mode == mode
            assert split.drawn == coded.right.drawn == drawn
            assert coded.numbers == written.numbers
            for side, way in ((split.left, mode.left), (split.right, mode.right)):
                assert (side.coordinates is None, side.own is None) == {
                    "EXPLICIT": (True, False), "SHARED": (False, True), "PREDICTED": (False, False),
                    "STARTED": (True, False),
                }[way.name]  # fmt: skip


def test_a_missing_basis_is_damage() -> None:
    rng = np.random.default_rng(0)
    basis = quantise_basis(8 * rng.standard_normal((9, 5))).basis
    writer = StreamWriter()
    mode = FORMS["shared-input"][0]
    pair = rng.standard_normal((12, 3)), rng.standard_normal((3, 9))
    write_record(writer, record(*pair, (mode.left, mode.right), (None, basis)), with_mode=True)
    with raises(BundleFormatError, got="a shared side in a module without such a basis"):
        read_split_record(StreamReader(writer.finish()), 12, 9, 4, 0)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_task_is_split_as_it_is_decoded(tmp_path: Path, lossless: bool) -> None:
    rng = np.random.default_rng(1)
    right = rng.standard_normal((2, 20))
    for name in ("de", "fr", "pl"):
        pairs = {f"h.{i}.q": (rng.standard_normal((16, 2)), right) for i in range(2)}
        write_adapter(tmp_path / "a" / name, pairs)
    limit = {"lossless": True} if lossless else {"error": 0.1, "forms": ["shared-input"]}
    merge(f"{tmp_path}/a/*", tmp_path / "b", **limit)
    bundle = open_bundle(tmp_path / "b")
    modules = bundle.manifest.modules
    bases = list(bundle.read_bases()) or [(None, None)] * len(modules)
    assert any(x is not None for _, x in bases) is not lossless
    widths = [tuple(x.q if x else 0 for x in pair) for pair in bases]
    by_path = {module.path: pair for module, pair in zip(modules, bases, strict=True)}
    for name, task in bundle.items():
        split = dict(bundle[name].split(widths))
        factors = task.factors()
        assert list(split) == list(factors)
        for path, one in split.items():
            np.testing.assert_array_equal(one.factors(*by_path[path]).B, factors[path].B)
            np.testing.assert_array_equal(one.factors(*by_path[path]).A, factors[path].A)
            assert lossless or one.right.own is None


def test_bases_are_read_anew_and_not_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    right = rng.standard_normal((2, 20))
    for name in ("de", "fr"):
        write_adapter(tmp_path / "a" / name, {"h.q": (rng.standard_normal((16, 2)), right)})
    merge(f"{tmp_path}/a/*", tmp_path / "b", error=0.1, forms=["shared-input"])
    bundle = open_bundle(tmp_path / "b")
    before = bundle.bytes_read
    for times in (1, 2):
        ((left, basis),) = bundle.read_bases()
        assert left is None
        assert bundle.bytes_read == before + times * bundle.tensor_bytes["shared"]
    assert bundle.bases(0)[1] is not basis
    np.testing.assert_array_equal(bundle.bases(0)[1].vectors, basis.vectors)
