"""The memory of what was measured: kept on disk where that can be, and tidied."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hydraopt.basemodel.memory import JsonCache, key_of
from hydraopt.harm import judge as judge_module
from hydraopt.harm.judge import AnswerJudge
from tests.basemodel.cases import PATHS, asked_of, factors_of
from tests.harm.cases import adapters_at, measured, spelling


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    memory = JsonCache(tmp_path / "file")
    memory.put(key_of(["a"]), [1])
    assert memory.get(key_of(["a"])) == [1]
    assert JsonCache(tmp_path / "file").get(key_of(["a"])) is None


def test_long_values_are_on_disk_alone_where_they_can_be(tmp_path: Path) -> None:
    """Answers of many tasks would fill the memory; where none can be written they must."""
    (tmp_path / "file").write_text("x")
    long, short = list(range(5000)), [1]
    for folder, known in ((tmp_path / "kept", None), (tmp_path / "file", long)):
        memory = JsonCache(folder)
        for _ in range(2):
            memory.put("a", long)
            memory.put("b", short)
            assert [memory.get(key) for key in "ab"] == [long, short]
            for file in folder.glob("*.json"):
                file.unlink()
            assert [memory.get(key) for key in "ab"] == [known, short]


def test_a_long_value_takes_the_place_of_a_short_one(tmp_path: Path) -> None:
    memory = JsonCache(tmp_path)
    for value in ([1], list(range(5000))):
        memory.put("a", value)
        assert memory.get("a") == value


def test_who_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        JsonCache(tmp_path).put("a", [1])
    assert list(tmp_path.iterdir()) == []


def test_borders_of_parts_count() -> None:
    assert key_of(["ab", "c"]) != key_of(["a", "bc"])


def test_what_nobody_asked_for_in_a_quarter_of_a_year_goes(tmp_path: Path) -> None:
    memory = JsonCache(tmp_path)
    old, asked, new, later = (key_of([x]) for x in ("old", "asked for", "new", "later"))
    for key in (old, asked, new):
        memory.put(key, [key])
    for name in (f"{old}.json", f"{asked}.json", "tmp1a_b.new", "package.json"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    memory = JsonCache(tmp_path)
    assert memory.get(asked) == [asked]
    assert (tmp_path / f"{old}.json").exists()
    memory.put(later, [])
    kept = {f"{asked}.json", f"{new}.json", f"{later}.json", "package.json"}
    assert {x.name for x in tmp_path.iterdir()} == kept


def test_what_cannot_be_tidied_or_written_costs_nothing_else(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        JsonCache(tmp_path).put("k", [1])
    assert JsonCache(tmp_path).get("k") == [1]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        JsonCache(tmp_path).put("n", [1])
    assert [x.name for x in tmp_path.iterdir()] == ["k.json"]


def test_values_come_back_from_disk(tmp_path: Path) -> None:
    JsonCache(tmp_path).put("k", [1, 0.5])
    assert JsonCache(tmp_path).get("k") == [1, 0.5]
    assert json.loads((tmp_path / "k.json").read_text()) == [1, 0.5]


def test_references_that_have_no_room_do_not_push_out_all_others(
    trained, judge_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are asked in turn: with room for two of three, one is there each time."""
    seeds = {"de": 0, "en": 1, "fr": 2}
    prompts = dict.fromkeys(seeds, asked_of(trained[1], range(1)))
    made: list[int] = []
    reference_of = judge_module.reference_of

    def counted(*given):
        reference = reference_of(*given)
        made.append(reference.nbytes)
        return reference

    monkeypatch.setattr(judge_module, "reference_of", counted)
    # Harm of other factors each time: that of the same ones is remembered.
    for rounds in (1, 4):
        judge = judge_of(prompts, 0.02, seeds)
        for seed in range(rounds):
            for name in seeds:
                measured(judge, name, factors_of(10 * rounds + seed, 0.02))
        monkeypatch.setattr(judge_module, "ROOM", sum(made[:2]) + 1)
    assert len(made) == 3 + 3 + 3 * 2


def test_sensitivities_are_measured_once(base, tmp_path: Path, monkeypatch) -> None:
    """Of an adapter, its prompts and a seed; a broken entry is measured anew."""
    measured_of: list[frozenset[str]] = []
    sensitivities = judge_module.sensitivities

    def counted(seen, factors):
        measured_of.append(frozenset(factors))
        return sensitivities(seen, factors)

    monkeypatch.setattr(judge_module, "sensitivities", counted)
    adapters, folder = adapters_at(tmp_path, 0.1, en=0, fr=1), tmp_path / "cache"

    def found(prompts=(), seed=0, of=adapters):
        asked = {"fr": list(prompts)} if prompts else {}
        memory = JsonCache(folder)
        return AnswerJudge(str(base), of, asked, seed=seed, memory=memory).sensitivities()

    first = found()
    assert (found(), len(measured_of)) == (first, 2)
    for count, given in ((3, {"prompts": spelling(10)}), (5, {"seed": 1})):
        other = found(**given)
        assert (other != first, found(**given), len(measured_of)) == (True, other, count)
    assert found(of=adapters[:1]) == {"en": first["en"]}
    found(of=adapters_at(tmp_path / "others", 0.1, en=2))
    assert len(measured_of) == 6
    for broken in ({}, [], dict.fromkeys(PATHS, 0.0), dict.fromkeys(PATHS, "1"), {"x": 1.0}):
        for file in folder.iterdir():
            file.write_text(json.dumps(broken))
        assert found() == first
    assert len(measured_of) == 6 + 2 * 5


def test_sensitivities_of_adapters_that_answer_alike_are_not_mixed_up(base, tmp_path: Path) -> None:
    adapters = adapters_at(tmp_path, 1e-3, en=0, fr=1)
    asked = dict.fromkeys(("en", "fr"), spelling(5))
    judge = AnswerJudge(str(base), adapters, asked, memory=JsonCache(None))
    assert judge.answers("en") == judge.answers("fr")
    found = judge.sensitivities()
    assert found["en"] != found["fr"]


def test_damaged_answers_are_written_again(base, tmp_path: Path) -> None:
    adapters, folder = adapters_at(tmp_path, 0.1, fr=1), tmp_path / "cache"

    def answers() -> list[tuple[int, ...]]:
        judge = AnswerJudge(str(base), adapters, {"fr": spelling(3)}, memory=JsonCache(folder))
        return [x.target for x in judge.answers("fr")]

    first = answers()
    for broken in ([[], []], [[10**12], [], []], [[True], [], []], [[0] * 2000, [], []], [0, 0, 0]):
        (file,) = folder.iterdir()
        file.write_text(json.dumps(broken))
        assert answers() == first
