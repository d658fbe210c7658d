"""A run of the growth benchmark goes on as long as merges write the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

import hydraopt
from benchmarks import common
from benchmarks.quality import growth


def test_rows_are_of_these_adapters_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"unlike": ["a", "b"]}
    monkeypatch.setattr(growth, "bundle_hash", lambda: "bytes")
    code = growth.code_of(inputs)
    assert growth.code_of({"unlike": ["a", "c"]}) != code
    monkeypatch.setattr(growth, "bundle_hash", lambda: "other bytes")
    assert growth.code_of(inputs) != code


def test_the_hash_is_of_what_a_merge_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for written in (b"one", b"one", b"two"):
        fake = lambda adapters, path, size, data=written: path.write_bytes(data)  # noqa: E731
        monkeypatch.setattr(hydraopt, "merge", fake)
        common.bundle_hash.cache_clear()
        hashes.append(common.bundle_hash())
    common.bundle_hash.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


def test_errors_along_the_own_parts_count_most() -> None:
    rng = np.random.default_rng(0)
    b, a = (
        np.linalg.qr(rng.standard_normal((16, 4)))[0],
        np.linalg.qr(rng.standard_normal((12, 4)))[0].T,
    )
    foreign = np.linalg.qr(np.concatenate([b, rng.standard_normal((16, 1))], 1))[0][:, 4:]
    original = {"q": (b, a)}
    half = {"q": (0.5 * b, a)}
    beside = {"q": (np.concatenate([b, foreign], 1), np.concatenate([a, a[:1]]))}
    # dW has energy 4. An error of energy 1 lies along its parts, or outside of its outputs.
    assert growth._measured(original, half) == pytest.approx((0.5, 3 * 0.25))
    assert growth._measured(original, beside) == pytest.approx((0.5, 0.25 / 4))
    assert growth._measured(original, {}) == pytest.approx((1.0, 3.0))


def test_bytes_are_compared_with_those_of_the_same_adapters_alone() -> None:
    def rows(group: str, names: list[str], size: float) -> list[dict[str, object]]:
        about = {"group": group, "adapters": len(names), "names": names}
        return [
            {**about, "error": error, "bytes_per_adapter": size / error} for error in (0.1, 0.4)
        ]

    both = rows("unlike", ["a", "b"], 12.0)
    alone = [*rows("unlike", ["a"], 10.0), *rows("like: b", ["b"], 20.0)]
    table = growth.table_of([*alone, *both], {"error": 0.2})
    assert [(x["group"], x["adapters"], x["error"]) for x in table] == [
        ("unlike", 1, 1.0),
        ("like: b", 1, 1.0),
        ("unlike", 2, 0.8),
    ]
    # Of an adapter that was not merged alone nothing is known.
    assert (
        growth.table_of([*rows("unlike", ["a"], 10.0), *both], {"error": 0.2})[1]["error"] is None
    )
