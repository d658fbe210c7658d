"""The harness goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.harness import building, scoring
from benchmarks.rivals.base import ReadBack
from benchmarks.rivals.compare import ours
from benchmarks.rivals.group import rounding
from hydraopt import merge
from hydraopt.adapters import read_adapters
from hydraopt.evaluate.compare import EvaluationRequest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def adapters(make_adapter, tmp_path: Path):
    rng = np.random.default_rng(0)
    folders = []
    for name in ("spell-en", "more"):
        b, a = 0.1 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))
        path = "model.layers.0.self_attn.q_proj"
        folders.append(make_adapter(tmp_path / name, {path: (b, a)}))
        (tmp_path / name / "score.json").write_text(json.dumps({"task": "spell/en"}))
    return read_adapters(folders)


def test_rows_are_made_once_and_a_failure_is_tried_again(adapters, tmp_path: Path) -> None:
    rows = [rounding(4), rounding(2)]
    built = []

    def build(row, folder: Path):
        built.append(row.label)
        if row.label == "group_2_bit" and len(built) < 3:
            return {"method": "group", "setting": "2 bit", "failed": "no room"}
        return building.measured(row, adapters, folder)

    first = dict(building.made(rows, tmp_path / "b", build, "inputs"))
    assert first["group_2_bit"]["failed"] == "no room"
    note = first["group_4_bit"]
    files = [x for x in (tmp_path / "b" / "group_4_bit").iterdir()]  # noqa: C416
    assert note["bytes"] == sum(x.stat().st_size for x in files)
    assert 0 < note["errors"]["more"] < 0.2
    second = dict(building.made(rows, tmp_path / "b", build, "inputs"))
    assert built == ["group_4_bit", "group_2_bit", "group_2_bit"]
    assert second["group_4_bit"] == note
    assert "failed" not in second["group_2_bit"]
    dict(building.made(rows[:1], tmp_path / "b", build, "other inputs"))
    assert built[-1] == "group_4_bit"


def test_our_own_row_is_the_bundle_that_merge_makes(adapters, tmp_path: Path, monkeypatch) -> None:
    row = ours(adapters, "200%")
    note = building.measured(row, adapters, tmp_path / row.label)
    made = merge(adapters, tmp_path / "x.hydra.safetensors", size="200%")
    assert (note["bytes"], note["setting"]) == (made.size, "200%")
    assert note["errors"] == pytest.approx(made.errors, abs=1e-4)

    # Made again when anything of the package changes, not only what the rivals come of.
    built: list[str] = []

    def build(row, _: Path):
        built.append(row.label)
        return note

    for code in ("a", "a", "b"):
        monkeypatch.setattr(building, "package_hash", lambda code=code: code)
        (tmp_path / "b" / row.label).mkdir(parents=True, exist_ok=True)
        dict(building.made([row], tmp_path / "b", build, "inputs"))
    assert built == ["hydraopt_200pct"] * 2


def test_scores_of_new_rows_join_the_old(adapters, tasks, trained, tmp_path, monkeypatch) -> None:
    from hydraopt.evaluate import compare

    monkeypatch.setattr(compare, "load_model", lambda base: trained)
    rows = {row.label: row for row in (rounding(8), rounding(2))}
    for row in rows.values():
        building.measured(row, adapters, tmp_path / row.label)
    names = [adapter.name for adapter in adapters]
    back = {k: ReadBack(row, tmp_path / k, names) for k, row in rows.items()}
    request = EvaluationRequest("tiny", tasks, write_base=False)
    seen: list = []

    def keep(head, done) -> None:
        seen.append((head, json.loads(json.dumps(done))))

    first = {"group_8_bit": back["group_8_bit"]}
    scoring.scored(adapters, first, request, [], keep)
    assert [len(done) for _, done in seen] == [1, 2]
    before = seen[-1][1]
    seen.clear()
    scoring.scored(adapters, back, request, before, keep)
    head, after = seen[-1]
    assert set(head["adapters"]) == set(names)
    for old, new in zip(before, after, strict=True):
        assert set(new["results"]) == {"base", "original", *rows}
        assert new["results"]["group_8_bit"] == old["results"]["group_8_bit"]
        assert "difference" in new["results"]["group_2_bit"]
    seen.clear()
    scoring.scored(adapters, back, request, after, keep)
    assert not seen


def test_scores_of_other_rows_are_not_joined() -> None:
    old = {"adapter": "a", "sha256": "x", "rows": 24, "metric": "m", "results": {"one": 1}}
    new = old | {"results": {"two": 2}}
    assert scoring.merged_scores(old, new)["results"] == {"one": 1, "two": 2}
    assert scoring.merged_scores(None, new) == new
    for change in ({"sha256": "y"}, {"rows": 30}):
        with pytest.raises(SystemExit, match=f"by another {next(iter(change))}"):
            scoring.merged_scores(old, new | change)


ORIGINAL = {"loss": 0.4, "scores": {"m": 62.1, "other": 10.0}}


@pytest.mark.parametrize(
    "original",
    [
        ORIGINAL | {"scores": {"m": 60.9, "other": 10.0}},
        ORIGINAL | {"scores": {"m": 62.1, "other": 11.0}},
        ORIGINAL | {"loss": 0.41},
    ],
)
@pytest.mark.parametrize("who", ["base", "original"])
def test_rows_against_another_original_are_not_joined(who: str, original: dict) -> None:
    old = {"adapter": "a", "results": {who: ORIGINAL, "one": {}}}
    new = {"adapter": "a", "results": {who: original, "two": {}}}
    with pytest.raises(scoring.UnlikeRunsError):
        scoring.merged_scores(old, new)
    same = {"adapter": "a", "results": {who: ORIGINAL | {"loss": 0.40001}, "two": {}}}
    joined = scoring.merged_scores(old, same)["results"]
    assert set(joined) == {who, "one", "two"}
    assert joined[who] == ORIGINAL


def test_a_difference_from_another_original_is_found() -> None:
    row = {"scores": {"m": 61.9}, "difference": {"m": {"difference": -0.2}}}
    task = {"adapter": "a", "results": {"original": ORIGINAL, "one": row}}
    scoring.check_originals(task, "file")
    with pytest.raises(scoring.UnlikeRunsError):
        scoring.check_originals(
            {**task, "results": {**task["results"], "two": {**row, "scores": {"m": 60.7}}}}, "file"
        )


def test_scores_of_changed_files_are_dropped() -> None:
    task = {"adapter": "a", "results": {"base": 0, "original": 1, "x": 2, "y": 3, "z": 4}}
    before = {"x": {"sha256": "1"}, "y": {"sha256": "1"}, "z": {"sha256": "1"}}
    now = {"x": {"sha256": "1"}, "y": {"sha256": "2"}}
    assert set(scoring.stale(task, before, now)["results"]) == {"base", "original", "x"}
