"""The benchmark of heads: its rivals, what it takes off, and all of it on a tiny base."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.quality import heads
from benchmarks.quality.heads import heads_rounded, main, without_head
from hydraopt.adapters import read_adapters
from tests.evaluate.test_classify import adapter, base, mood
from tests.small_model import trained

__all__ = ["base", "mood", "trained"]


def test_heads_in_few_bits() -> None:
    saved = {"score.weight": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}
    errors = {}
    for bits in (8, 4):
        made, taken = heads_rounded(saved, bits)
        assert taken == 3 * 64 * bits // 8 + 2 * 3 * 64 // 32
        lost = np.linalg.norm(made["score.weight"] - saved["score.weight"])
        errors[bits] = lost / np.linalg.norm(saved["score.weight"])
    assert 0.0 < errors[8] < 0.01 < errors[4] < 0.15


def test_an_adapter_without_its_head(tmp_path) -> None:
    (whole,) = read_adapters([str(adapter(tmp_path / "mood-en"))])
    bare = without_head(whole)
    assert (dict(bare.extras), set(bare.modules)) == ({}, set(whole.modules))
    assert whole.numbers - bare.numbers == 3 * 32


@pytest.mark.slow
def test_all_of_it(base, mood, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(heads, "SIZES", ("95%", "5%"))  # the manifest alone is more than 10 %
    adapter(tmp_path / "adapters" / "mood-en")
    command = ["--tasks", str(mood), "--adapters", str(tmp_path / "adapters" / "*")]
    command += ["--base", str(base), "--output", str(tmp_path)]
    main(command)
    rows = json.loads((tmp_path / "heads.json").read_text())["rows"]
    assert len(rows) == 8  # two sizes, four ways
    assert "at least" in rows[-1]["refused"]  # 5 % of an adapter of a few bytes
    assert [row["way"] for row in rows if "tasks" in row][-1] == "heads in 4 bits"
    for row in (row for row in rows if "tasks" in row):
        assert row["tasks"]["mood-en"]["changed"] == row["flips"]
