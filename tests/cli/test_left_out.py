"""``adapters/*`` as a shell writes it out, with files among the adapters: left out, and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import TASKS, MakeAdapter, Run


@pytest.fixture
def matches(make_adapter: MakeAdapter, tmp_path: Path) -> list[Path]:
    """Three adapters of plain low-rank products, with a list of hashes and a licence."""
    import numpy as np

    folder = tmp_path / "set"
    for i, name in enumerate(TASKS):
        rng = np.random.default_rng(i)
        pair = rng.standard_normal((12, 2)), rng.standard_normal((2, 16))
        make_adapter(folder / name, {"layers.0.q_proj": pair})
    for name in ("LICENSE", "SHA256SUMS"):
        (folder / name).write_text("no adapter")
    return sorted(folder.iterdir())


VERBS = {
    "merge": ["merge", "--error", "0.3", "-o", "OUT"],
    "lossless": ["merge", "--lossless", "-o", "OUT"],
    "inspect": ["inspect"],
    "verify": ["verify", "BUNDLE"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_leaves_them_out_and_says_so(
    run: Run, matches: list[Path], tmp_path: Path, verb: str
) -> None:
    bundle = tmp_path / "one.hydra.safetensors"
    adapters = [path for path in matches if path.is_dir()]
    assert run("merge", *adapters, "--error", "0.3", "-o", bundle, "-q").exit_code == 0
    known = {"OUT": tmp_path / "out.hydra.safetensors", "BUNDLE": bundle}
    words = [known.get(word, word) for word in VERBS[verb]]
    where = f"{matches[0]}, {matches[1]}"
    result = json.loads(run(*words, *matches, "--json").stdout)
    assert ("no_adapter", where) in [(x["code"], x["where"]) for x in result["notes"]]
    assert [task["name"] for task in result["tasks"]] == list(TASKS)
    assert where in run(*words, *matches).output


def test_a_path_that_is_given_twice_is_read_once_and_named(
    run: Run, matches: list[Path], tmp_path: Path
) -> None:
    first, second = [path for path in matches if path.is_dir()][:2]
    out = ["--error", "0.3", "-o", tmp_path / "x.hydra.safetensors", "--json"]
    result = json.loads(run("merge", first, second, first, *out).stdout)
    assert ("given_twice", str(first)) in [(x["code"], x["where"]) for x in result["notes"]]
    assert len(result["tasks"]) == 2
    named = run("merge", first, f"other={first}", *out)  # two tasks of one content
    assert "given_twice" not in [x["code"] for x in json.loads(named.stdout)["notes"]]


def test_adapters_of_one_name_are_told_by_their_tasks(
    run: Run, matches: list[Path], tmp_path: Path
) -> None:
    adapters = [path for path in matches if path.is_dir()][:2]
    for i, path in enumerate(adapters):
        shutil.copytree(path, tmp_path / f"run{i}" / "last")
    words = ["merge", f"{tmp_path}/run*/last", "--error", "0.3", "-o", tmp_path / "out", "--json"]
    notes = [(x["code"], x["where"]) for x in json.loads(run(*words).stdout)["notes"]]
    assert ("same_name", "run0-last, run1-last") in notes
