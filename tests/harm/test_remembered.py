"""The memory of what was measured: kept on disk where that can be, and tidied."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hydraopt.model import AnswerJudge, JsonCache, judge as judge_module, key_of
from tests.basemodel.cases import factors_of
from tests.harm.cases import adapters_at, measured, rows, spelling


def test_values_come_back_from_disk_or_from_memory_where_none_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, kept in ((tmp_path / "folder", [1, 0.5]), (tmp_path / "file", None), (None, None)):
        memory = JsonCache(folder)
        for value in (list(range(5000)), [1, 0.5]):
            memory.put(key_of(["a"]), value)
            assert memory.get(key_of(["a"])) == value
        assert JsonCache(folder).get(key_of(["a"])) == kept
        assert memory.get(key_of(["b"])) is None
    assert key_of(["ab", "c"]) != key_of(["a", "bc"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b"[1", b"[2"),
        lambda data: b"\xff" + data[1:],
        lambda data: b"[" * 100_000,
        lambda data: hashlib.sha256(b"{").hexdigest().encode() + b"\n{",
    ],
)
def test_a_damaged_value_is_made_again(tmp_path: Path, damage) -> None:
    assert JsonCache(tmp_path).recall("k", lambda: [1]) == [1]
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for made in ([3], [4]):
        assert JsonCache(tmp_path).recall("k", lambda made=made: made) == [3]


def test_who_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        JsonCache(tmp_path).put("a", [1])
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_asked_for_in_a_quarter_of_a_year_goes(tmp_path: Path, monkeypatch) -> None:
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

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)
    JsonCache(tmp_path).put(old, [1])
    assert JsonCache(tmp_path).get(old) == [1]


def test_references_that_have_no_room_do_not_push_out_all_others(
    trained, judge_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are asked in turn: with room for two of three, one is there each time."""
    seeds = {"de": 0, "en": 1, "fr": 2}
    prompts = dict.fromkeys(seeds, rows(range(1)))
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
    """Of an adapter, its prompts and a seed."""
    counts: list[int] = []
    sensitivities = judge_module.sensitivities
    monkeypatch.setattr(
        judge_module, "sensitivities", lambda *given: counts.append(1) or sensitivities(*given)
    )
    adapters, folder = adapters_at(tmp_path, 0.1, en=0, fr=1), tmp_path / "cache"

    def found(prompts=(), seed=0, of=adapters):
        asked = {"fr": list(prompts)} if prompts else {}
        memory = JsonCache(folder)
        return AnswerJudge(str(base), of, asked, seed=seed, memory=memory).sensitivities()

    first = found()
    assert (found(), len(counts)) == (first, 2)
    for count, given in ((3, {"prompts": spelling(10)}), (5, {"seed": 1})):
        other = found(**given)
        assert (other != first, found(**given), len(counts)) == (True, other, count)
    assert found(of=adapters[:1]) == {"en": first["en"]}
    found(of=adapters_at(tmp_path / "others", 0.1, en=2))
    assert len(counts) == 6


def test_sensitivities_of_adapters_that_answer_alike_are_not_mixed_up(base, tmp_path: Path) -> None:
    adapters = adapters_at(tmp_path, 1e-3, en=0, fr=1)
    asked = dict.fromkeys(("en", "fr"), spelling(5))
    judge = AnswerJudge(str(base), adapters, asked, memory=JsonCache(None))
    assert judge.answers("en") == judge.answers("fr")
    found = judge.sensitivities()
    assert found["en"] != found["fr"]
