"""Sizes of bundles are shares of the originals: in fp16 where coded, as read where lossless."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from hydraopt.cli.main import cli
from tests.conftest import write_adapter

TASKS = ("dates-de", "dates-en")


def run(*arguments: object) -> str:
    said = CliRunner().invoke(cli, [str(x) for x in arguments])
    assert said.exit_code == 0, said.output
    return said.output


def adapters(folder: Path, dtype: Any, names: tuple[str, ...] = TASKS) -> int:
    """Write adapters of random numbers; return the bytes of their tensors."""
    rng, size = np.random.default_rng(0), 0
    for name in names:
        pairs = {
            f"h.{i}.q": (rng.standard_normal((200, 8)), rng.standard_normal((8, 100)))
            for i in range(3)
        }
        write_adapter(folder / name, pairs, dtype=dtype)
        tensors = load_file(folder / name / "adapter_model.safetensors")
        size += sum(x.nbytes for x in tensors.values())
    return size


def shares(text: str) -> list[float]:
    """Shares of originals in a text, in percent."""
    return [float(x) for x in re.findall(r"([\d.]+) % of the (?!file)", " ".join(text.split()))]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_lossless_bundle_is_compared_with_what_was_read(dtype: Any, tmp_path: Path) -> None:
    read = adapters(tmp_path / "adapters", dtype)
    bundle = tmp_path / "b.hydra.safetensors"
    merged = run("merge", *(tmp_path / "adapters" / x for x in TASKS), "-o", bundle, "--lossless")
    share = 100 * bundle.stat().st_size / read
    assert share < 120
    report = tmp_path / "report.html"
    told = [
        merged,
        run("inspect", bundle),
        run("report", bundle, "-o", report),
        run("report", "--card", bundle),
    ]
    for text in told:
        assert shares(text)
        assert shares(text) == pytest.approx([share] * len(shares(text)), abs=0.01)
        assert not re.search(r"\b0\.\d( times|x)", text)
    assert json.loads(run("inspect", bundle, "--json"))["original_bytes"] == read


def test_a_coded_bundle_is_compared_with_fp16(tmp_path: Path) -> None:
    read = adapters(tmp_path / "adapters", np.float32)
    bundle = tmp_path / "b.hydra.safetensors"
    merged = run("merge", *(tmp_path / "adapters" / x for x in TASKS), "-o", bundle, "--size=30%")
    share = 100 * bundle.stat().st_size / (read / 2)
    for text in (merged, run("inspect", bundle), run("report", "--card", bundle)):
        assert shares(text)
        assert shares(text) == pytest.approx([share] * len(shares(text)), abs=0.01)
    assert json.loads(run("inspect", bundle, "--json"))["original_bytes"] == read // 2


def test_each_task_of_a_mixed_bundle_counts_as_it_is_stored(tmp_path: Path) -> None:
    read = adapters(tmp_path / "adapters", np.float32, (*TASKS, "dates-fr"))
    bundle = tmp_path / "b.hydra.safetensors"
    run("merge", *(tmp_path / "adapters" / x for x in TASKS), "-o", bundle, "--size=30%")
    run("add", bundle, tmp_path / "adapters" / "dates-fr", "--lossless")
    report = json.loads(run("inspect", bundle, "--json"))
    one = read // 3
    rows = {x["name"]: x["original_bytes"] for x in report["tasks"]}
    assert rows == {"dates-de": one // 2, "dates-en": one // 2, "dates-fr": one}
    assert report["original_bytes"] == 2 * one


def test_a_bundle_larger_than_its_originals_is_not_called_smaller(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", {"h.0.q": (np.ones((3, 1)), np.ones((1, 2)))}, dtype=np.float16)
    merged = run("merge", tmp_path / "a", "-o", tmp_path / "b", "--lossless")
    for text in (merged, run("inspect", tmp_path / "b"), run("report", "--card", tmp_path / "b")):
        assert min(shares(text)) > 100
        assert "smaller" not in text
