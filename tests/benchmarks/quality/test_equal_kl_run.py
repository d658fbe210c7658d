"""Methods by size on the same rows: what a row of the result holds, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import equal_kl
from benchmarks.quality.equal_kl import Scorer, measured, packed
from benchmarks.rivals.base import Compressor, pack
from hydraopt.evaluate.results import ORIGINAL
from hydraopt.merging import HarmSettings


def scaled(factor: float) -> Compressor:
    """A method whose factors are those of the adapter times a number."""

    def write(tasks: Any, folder: Path) -> None:
        for name, modules in tasks.items():
            arrays = {f"{p} {i}": x for p, pair in modules.items() for i, x in enumerate(pair)}
            np.savez(folder / f"{name}.npz", **arrays)

    def read(folder: Path, task: str) -> Any:
        stored = np.load(folder / f"{task}.npz")
        paths = dict.fromkeys(key.rpartition(" ")[0] for key in stored)
        return {p: (factor * stored[f"{p} 0"], stored[f"{p} 1"]) for p in paths}

    return Compressor("scaled", f"{factor:g}", write, read)


@pytest.fixture
def command(splits: Path, tmp_path: Path, monkeypatch: Any, as_small_set: Any) -> Any:
    """Runs the command with the small model; returns its result."""
    as_small_set(equal_kl)
    monkeypatch.setattr(equal_kl, "taught_rows", lambda teach: [_through(teach)])
    short = HarmSettings(steps=4, judge_after=(4,), synthetic_prompts=0)
    monkeypatch.setattr(equal_kl, "AnswerJudge", partial(equal_kl.AnswerJudge, settings=short))
    asked = ["small", "--tasks", str(splits), "--rivals", "--sizes", "1100"]

    def run(*more: str) -> dict[str, Any]:
        equal_kl.main([*asked, "--output", str(tmp_path), *more])
        if not (file := tmp_path / "small.equal-kl.json").is_file():
            return {}
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    return run


def _through(teach: Any) -> Compressor:
    """What learned from prompts, as it is."""
    plain = scaled(1.0)

    def write(tasks: Any, folder: Path) -> None:
        learned = {x: teach(x, modules, lambda moved: moved) for x, modules in tasks.items()}
        plain.write(learned, folder)

    return Compressor("scaled, prompts", "1", write, plain.read)


def test_unchanged_answers_score_as_before(trained, splits, adapters, tmp_path) -> None:
    scorer = Scorer(splits, 8, trained)
    (adapter,) = adapters
    tasks = equal_kl.tasks_of(adapters)
    rows = [scaled(x) for x in (1.0, 0.99, -6.0)]
    for row in rows:
        pack(row, tasks, tmp_path / row.label)
    reads = {x.label: equal_kl.ReadBack(x, tmp_path / x.label, [adapter.name]) for x in rows}
    found = measured(adapter, reads, scorer)
    original = np.array(found[ORIGINAL])
    assert len(original) == 8
    assert not original[:, :2].any()
    same, near, far = (np.array(found[x.label]) for x in rows)
    assert np.allclose(same, original, atol=1e-9)
    assert far[:, 1].mean() > near[:, 1].mean() > 0
    assert far[:, 0].any()
    for values in (near, far):
        unchanged = values[:, 0] == 0
        assert np.array_equal(values[unchanged, 2:], original[unchanged, 2:])


def test_changed_answers_are_written_anew(trained, splits, adapters, tmp_path) -> None:
    (adapter,) = adapters
    scorer = Scorer(splits, 10, trained)
    row = scaled(0.0)  # the base
    pack(row, equal_kl.tasks_of(adapters), tmp_path)
    read = equal_kl.ReadBack(row, tmp_path, [adapter.name])
    values = np.array(measured(adapter, {"base": read}, scorer)["base"])
    file = scorer.rows_of(adapter)
    alone = scorer.numbers_of(file, scorer.written(*_asked(scorer, file)))
    assert values[:, 2:].tolist() == alone
    assert values[:, 0].any()
    assert 0 < values[:, 2].mean() < 1


def _asked(scorer: Scorer, file: Any) -> tuple[Any, Any, int]:
    prompts, most = scorer.asked(file)
    return prompts, [{}] * len(prompts), most


def test_answers_may_be_longer_than_those_that_judge(trained, splits, adapters) -> None:
    scorer = Scorer(splits, 2, trained)
    file = scorer.rows_of(adapters[0])
    long = replace(file.rows[0], output="x" * 200)
    assert scorer.asked(file)[1] < 128 < scorer.asked(replace(file, rows=(long, file.rows[1])))[1]


def test_a_second_call_measures_what_is_missing(command, tmp_path, monkeypatch) -> None:
    first = command("--rows", "6")
    labels = [row["method"] for row in first["rows"]]
    assert labels == [ORIGINAL, "hydraopt_1100"]
    assert {row["metric"] for row in first["rows"]} == {"exact match"}
    again = command("--rows", "6", "--sizes", "1100", "1500")
    assert [row["method"] for row in again["rows"]] == [*labels, "hydraopt_1500"]
    assert again["rows"][:2] == first["rows"]
    assert again["methods"]["hydraopt_1500"]["bytes"] > again["methods"]["hydraopt_1100"]["bytes"]
    before = (tmp_path / "small.equal-kl.json").read_text()
    with pytest.raises(SystemExit, match="other count"):
        command("--rows", "5")
    with monkeypatch.context() as other:
        other.setattr(equal_kl, "package_hash", lambda *_: "another")
        with pytest.raises(SystemExit, match="other code"):
            command("--rows", "6")
    assert (tmp_path / "small.equal-kl.json").read_text() == before


def test_a_method_that_fails_half_way_leaves_no_folder(tmp_path) -> None:
    def fail(tasks: object, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError

    def write(tasks: object, folder: Path) -> None:
        (folder / "whole").write_bytes(b"12")

    made = Compressor("made", "5%", write, lambda folder, task: {})
    with pytest.raises(OSError):  # noqa: PT011
        packed([replace(made, write=fail)], {}, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []
    assert packed([made], {}, tmp_path / "build")["made_5pct"].bytes == 2
    # What is there stays.
    assert packed([replace(made, write=fail)], {}, tmp_path / "build")["made_5pct"].bytes == 2


@pytest.mark.slow
def test_methods_with_prompts_join_those_without(command) -> None:
    free = command("--rows", "4")
    given = "--rows", "4", "--learn-at", "1100", "--prompts"
    mine = command(*given, "9")
    learnt = {x for x, about in mine["methods"].items() if about.get("prompts") == 9}
    assert learnt == {"hydraopt,_prompts_1100"}
    assert mine["rows"][: len(free["rows"])] == free["rows"]
    assert learnt == {row["method"] for row in mine["rows"][len(free["rows"]) :]}
    both = command(*given, "9", "--rivals", "coded_svd", "--labels", "none of them")
    assert "scaled,_prompts_1" in {row["method"] for row in both["rows"]}
    with pytest.raises(SystemExit, match="another hydraopt,_prompts_1100"):
        command(*given, "8")


def test_without_prompts_no_other_split_is_read(command, splits) -> None:
    for split in ("train", "validation"):
        (splits / "spell" / "en" / f"{split}.jsonl").unlink()
    assert {row["method"] for row in command("--rows", "4")["rows"]} == {ORIGINAL, "hydraopt_1100"}


def test_a_set_may_be_a_few_adapters(command, tmp_path) -> None:
    command("--rows", "4", "--alone", "spell-en")
    result = json.loads((tmp_path / "small-alone.equal-kl.json").read_text())
    assert {row["adapter"] for row in result["rows"]} == {"spell-en"}


def test_rows_of_other_task_files_are_refused(command, splits) -> None:
    command("--rows", "4")
    (file,) = (splits / "spell" / "en").glob("test.jsonl")
    file.write_text(file.read_text().replace("two", "2"))
    with pytest.raises(SystemExit, match="other rows of spell-en"):
        command("--rows", "4")
