"""Every compressor: what comes back is what is on disk, and the disk is what is counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals import loraquant as loraquant_module
from benchmarks.rivals.base import folder_bytes, pack, relative_errors
from benchmarks.rivals.bundles import adapter_of, combined
from benchmarks.rivals.coded_svd import NOISES, as_ours, coded_svd
from benchmarks.rivals.files import fp16_files, zip_files, zstd_files
from benchmarks.rivals.group import rounding
from benchmarks.rivals.heads import heads
from benchmarks.rivals.jd import (
    clusters,
    jd_diagonal,
    jd_full,
    joint_diagonal,
    joint_full,
)
from benchmarks.rivals.loraquant import loraquant
from benchmarks.rivals.nf4 import normal_float
from benchmarks.rivals.numbers import NF4, grouped, pack_bits, unpack_bits
from benchmarks.rivals.registry import SetShape, rows_of
from benchmarks.rivals.svd import cut_by_energy, cut_by_rank, svd
from hydraopt.codec import Factors
from tests.marks import slow

SHAPES = {"l.0.q": (40, 32), "l.0.v": (16, 32), "l.1.q": (40, 32)}


def tasks(count: int = 4, seed: int = 0, r: int = 4):
    """Tasks with a common start on the input side; the last lacks a module."""
    rng = np.random.default_rng(seed)
    start = {path: rng.standard_normal((r, n)) for path, (_, n) in SHAPES.items()}
    made = {}
    for t in range(count):
        made[f"task-{t}"] = {
            path: (
                (0.1 * rng.standard_normal((m, r)) * 2.0 ** -np.arange(r)).astype(np.float32),
                (start[path] + 0.3 * rng.standard_normal((r, n))).astype(np.float32),
            )
            for path, (m, n) in SHAPES.items()
            if not (t == count - 1 and path == "l.1.q")
        }
    return made


ROWS = {row.label: row for row in rows_of(SetShape(4, 4))}
BETWEEN = {
    *("group_4_bit", "group_3_bit", "svd_rank_2", "svd_25_pct", "svd_10_pct", "svd_5_pct"),
    *("svd+group_25_pct_4_bit", "svd+group_10_pct_4_bit", "loraquant_ratio_0.8"),
    *(f"coded_svd{x}_{noise:g}" for x in ("", ",_weighed") for noise in NOISES[1:-1]),
    *("jd-full_c=16", "jd-full_c=32", "jd-diag_c=32"),
    *(f"HydraOpt_M={m}_r={r}" for m in (1, 4) for r in (4, 8)),
}
"""Sizes of a method between the least and the largest, which the default suite has."""


@pytest.mark.parametrize(
    "row", [slow(x) if name in BETWEEN else x for name, x in ROWS.items()], ids=[*ROWS]
)
def test_round_trip_on_disk(row, tmp_path: Path, monkeypatch) -> None:
    # How well it refines its parts is for other tests; what is stored has the same layout.
    monkeypatch.setattr(loraquant_module, "STEPS", 2)
    given = tasks()
    packed = pack(row, given, tmp_path / "a")
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert packed.bytes == folder_bytes(tmp_path / "a") == sum(len(x.read_bytes()) for x in files)
    # From a copy of the files alone the same comes back, task by task.
    shutil.move(tmp_path / "a", tmp_path / "b")
    for name, modules in given.items():
        again = row.read(tmp_path / "b", name)
        assert set(again) == set(packed.factors[name]) == set(modules)
        for path, (b, a) in again.items():
            assert b.dtype == a.dtype == np.float32
            assert (b.shape[0], a.shape[1]) == SHAPES[path]
            assert np.array_equal(b, packed.factors[name][path][0])
            assert np.array_equal(a, packed.factors[name][path][1])
    errors = relative_errors(given, packed.factors)
    assert all(np.isfinite(x) for x in errors.values())


def test_labels_are_distinct() -> None:
    labels = [row.label for row in rows_of(SetShape(40, 8))]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert not set(label) & set(" /%")


def mean_error(row, folder: Path, given=None) -> float:
    given = given or tasks()
    return float(np.mean(list(relative_errors(given, pack(row, given, folder).factors).values())))


@pytest.mark.slow
def test_more_bytes_less_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loraquant_module, "STEPS", 20)
    for i, ladder in enumerate(
        (
            [rounding(2), rounding(3), rounding(4), rounding(8), fp16_files()],
            [svd(cut_by_rank(k), "x") for k in (1, 2, 3, 4)],
            [svd(cut_by_energy(x), "x") for x in (0.1, 0.3, 0.6, 1.0)],
            [loraquant(x) for x in (0.3, 0.9)],
            [jd_full(c) for c in (1, 4, 16)],
            [heads(1, 4), heads(2, 4), heads(4, 4), heads(4, 8)],
        )
    ):
        errors = [mean_error(row, tmp_path / f"{i}-{k}") for k, row in enumerate(ladder)]
        assert errors == sorted(errors, reverse=True), ladder[0].label
    assert mean_error(fp16_files(), tmp_path / "x") < 1e-3
    assert mean_error(jd_full(16), tmp_path / "y") < 1e-3
    assert mean_error(svd(cut_by_rank(4), "x"), tmp_path / "z") < 1e-3


def test_bytes_are_near_what_the_bits_say(tmp_path: Path) -> None:
    """Headers aside: 4 bits and an fp16 scale for 32 numbers, and so on."""
    rng = np.random.default_rng(0)
    given = {
        "t": {"q": (rng.standard_normal((512, 8)), rng.standard_normal((8, 512)))},
    }
    given = {"t": {"q": tuple(x.astype(np.float32) for x in given["t"]["q"])}}
    for i, (row, bits) in enumerate(
        [(rounding(4), 4.5), (normal_float(), 4.25), (fp16_files(), 16.0), (loraquant(1.0), 2.14)]
    ):
        size = pack(row, given, tmp_path / str(i)).bytes
        assert 0 < size - bits / 8 * 8192 < 700, row.label


def test_archives_hold_the_same_numbers(tmp_path: Path) -> None:
    given = tasks()
    want = pack(fp16_files(), given, tmp_path / "w").factors
    for row in (zip_files(), zstd_files()):
        got = pack(row, given, tmp_path / row.method).factors
        for task, modules in want.items():
            for path, pair in modules.items():
                assert all(map(np.array_equal, pair, got[task][path]))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_bits_come_back(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, 37).astype(np.uint8)
    assert np.array_equal(unpack_bits(pack_bits(codes, bits), bits, 37), codes)


def test_codes_are_exact_on_their_own_levels() -> None:
    rng = np.random.default_rng(0)
    levels = (rng.integers(0, 16, 70) - 7.5).astype(np.float32)
    levels[[0, 40, 69]] = 7.5  # the largest level is in every group
    got = grouped(4).decode(grouped(4).encode([levels]), [70])[0]
    assert np.allclose(got, levels, rtol=1e-3)
    from benchmarks.rivals.numbers import NF4_LEVELS

    values = 2 * NF4_LEVELS[[15, *rng.integers(0, 16, 20)]]
    assert np.allclose(NF4.decode(NF4.encode([values]), [21])[0], values, rtol=1e-3)


def test_joint_forms_find_what_is_there() -> None:
    rng = np.random.default_rng(1)
    U, V = rng.standard_normal((20, 3)), rng.standard_normal((15, 3))
    full = [Factors(U @ rng.standard_normal((3, 3)), V.T) for _ in range(5)]
    u, v, s = joint_full(full, 3)
    assert np.allclose(u.T @ u, np.eye(3))
    for f, x in zip(full, s, strict=True):
        assert np.allclose(u @ x @ v.T, f.B @ f.A)
    diagonal = [Factors(U * rng.uniform(0.5, 2, 3), V.T) for _ in range(5)]
    u, v, s = joint_diagonal(diagonal, 3)
    for f, x in zip(diagonal, s, strict=True):
        assert np.linalg.norm((u * x) @ v.T - f.B @ f.A) < 0.05 * np.linalg.norm(f.B @ f.A)


def test_clusters_serve_kinds_apart(tmp_path: Path) -> None:
    """Two kinds with bases of their own, mixed by name: each cluster ends with one kind."""
    rng = np.random.default_rng(0)
    both = {}
    bases = [(rng.standard_normal((20, 3)), rng.standard_normal((3, 15))) for _ in range(2)]
    for i in range(12):
        U, V = bases[i % 2]
        both[f"t{i}"] = {"q": ((U @ rng.standard_normal((3, 3))).astype("f4"), V.astype("f4"))}
    assert mean_error(jd_full(3), tmp_path / "1", both) > 0.3
    assert mean_error(jd_full(3, clusters=2), tmp_path / "2", both) < 1e-3
    found = clusters(both, 2, 3)
    assert {found[f"t{i}"] for i in range(0, 12, 2)} != {found[f"t{i}"] for i in range(1, 12, 2)}
    assert len(set(found.values())) == 2
    assert mean_error(jd_diagonal(8), tmp_path / "3", both) < 1


@pytest.mark.slow
def test_loraquant_refines_its_strong_parts(tmp_path: Path, monkeypatch) -> None:
    one = tasks(2, seed=1)
    monkeypatch.setattr(loraquant_module, "STEPS", 100)
    better = mean_error(loraquant(0.9), tmp_path / "a", one)
    monkeypatch.setattr(loraquant_module, "STEPS", 0)
    assert better < 0.9 * mean_error(loraquant(0.9), tmp_path / "b", one)
    sizes = [folder_bytes(tmp_path / x) for x in "ab"]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_one_that_takes_tasks_in_turn_gets_them_shuffled(tmp_path: Path) -> None:
    many = tasks(4, seed=1)
    plain, mixed = (combined("k-merge", clusters=2, shuffled=x) for x in (False, True))
    errors = [mean_error(row, tmp_path / str(i), many) for i, row in enumerate((plain, mixed))]
    assert errors[0] != errors[1]
    assert mean_error(mixed, tmp_path / "again", many) == errors[1]


def test_a_method_sees_the_factors_as_they_are() -> None:
    given = tasks()["task-0"]
    adapter = adapter_of("x", given)
    for path in given:
        pair = adapter.modules[path].factors()
        assert np.array_equal(pair[0], given[path][0])
        assert np.array_equal(pair[1], given[path][1])
    assert combined("ties").label == "ties"


def test_a_coded_svd_spends_bits_where_the_error_is(tmp_path: Path) -> None:
    given = tasks(2, r=4)
    rows = [coded_svd(noise) for noise in (0.05, 0.2, 0.8)]
    made = [pack(row, given, tmp_path / row.label) for row in rows]
    sizes = [x.bytes for x in made]
    errors = [max(relative_errors(given, x.factors).values()) for x in made]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[0] < 0.06
    # Where a module counts more, its error falls.
    heavy = coded_svd(0.2, lambda path, _: 9.0 if path == "l.0.q" else 1.0)
    other = pack(heavy, given, tmp_path / "heavy").factors

    def wrong(found, path: str) -> float:
        true, back = (Factors.of(*x["task-0"][path]) for x in (given, found))
        return float(np.linalg.norm(true.B @ true.A - back.B @ back.A))

    assert wrong(other, "l.0.q") < 0.6 * wrong(made[1].factors, "l.0.q")
    heights = {"l.q_proj": 64, "l.k_proj": 16, "l.o_proj": 32}
    assert [as_ours(path, heights) for path in heights] == [1.0, 4.0, 2.0]
