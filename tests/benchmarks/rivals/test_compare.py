"""The research command: adapters in; a table, JSON and a picture out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals import compare
from tests.conftest import MakeAdapter

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def folders(make_adapter: MakeAdapter, tmp_path: Path) -> list[str]:
    made = []
    for seed, name in enumerate(("de", "en")):
        rng = np.random.default_rng(seed)
        pairs = {
            f"model.layers.0.self_attn.{kind}_proj": (
                0.1 * rng.standard_normal((160, 4)),
                rng.standard_normal((4, 160)),
            )
            for kind in "qv"
        }
        made.append(str(make_adapter(tmp_path / name, pairs)))
    return made


def ran(folders: list[str], out: Path, *more: str) -> list[dict]:
    compare.main([*folders, "-o", str(out), *more])
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((out / "compare.json").read_text())["rows"]
    assert len((out / "compare.txt").read_text().splitlines()) == len(rows) + 1
    return rows


@pytest.mark.slow
def test_ours_is_made_at_the_bytes_of_each(folders: list[str], tmp_path: Path) -> None:
    rows = ran(folders, tmp_path / "out", "--only", "group_4", "ties")
    rivals = [row for row in rows if row["method"] != "hydraopt"]
    ours = [row for row in rows if row["method"] == "hydraopt"]
    assert {"ties", "knots-ties", "dare-ties"} <= {row["method"] for row in rivals}
    for rival in rivals:
        if rival["size_pct"] < 100:
            (near,) = [
                x for x in ours if int(x["setting"]) <= rival["bytes"] <= 1.02 * int(x["setting"])
            ]
            assert near["bytes"] <= rival["bytes"]
    assert all(set(row["errors"]) == {"de", "en"} for row in rows)


def test_sizes_take_the_place_of_the_rivals_bytes(folders: list[str], tmp_path: Path) -> None:
    rows = ran(folders, tmp_path / "out", "--only", "group_4_bit", "--sizes", "50%", "1%")
    assert [row["setting"] for row in rows if row["method"] == "hydraopt"] == ["50%", "1%"]
    # One per cent has no room for the manifest; a failure is a row as well.
    assert next(row for row in rows if row["setting"] == "1%")["failed"]


def test_an_unknown_rival_is_refused(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main([*folders, "-o", str(tmp_path / "out"), "--only", "svd", "nosuch"])
    assert ended.value.code not in (None, 0)
    assert not (tmp_path / "out").exists()


def test_scores_need_a_base_and_tasks(folders: list[str], tmp_path: Path) -> None:
    for more in (["--score"], ["--score", "--base", "x"], ["--base", "x", "--tasks", "y"]):
        with pytest.raises(SystemExit) as ended:
            compare.main([*folders, "-o", str(tmp_path / "out"), *more])
        assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scores_are_added_to_the_table(
    make_adapter: MakeAdapter, tasks: Path, trained, tmp_path: Path, monkeypatch
) -> None:
    from hydraopt.evaluate import compare as evaluation

    monkeypatch.setattr(evaluation, "load_model", lambda base, **_: trained)
    rng = np.random.default_rng(0)
    pair = 0.1 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))
    folder = make_adapter(tmp_path / "spell-en", {"model.layers.0.self_attn.q_proj": pair})
    more = ["--only", "group_", "--sizes", "300%", "--score", "--base", "tiny"]
    rows = ran([str(folder)], tmp_path / "out", *more, "--tasks", str(tasks), "--rows", "4")
    kls = {row["label"]: row["kl"] for row in rows if "svd" not in row["label"]}
    assert kls["group_8_bit"] < kls["group_2_bit"]
    assert all(0 <= row["changed_pct"] <= 100 for row in rows)
    assert [row["method"] for row in rows if "kl" in row].count("hydraopt") == 1
