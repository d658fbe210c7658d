"""A task that was measured before is not measured again, unless something it depends on differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from hydraopt import merge, read_adapters
from hydraopt.evaluate import EvaluationRequest, compare, evaluate, read_compared
from tests.evaluate.test_classify import adapter as classifier, mood
from tests.evaluate.test_run import factors
from tests.marks import slow

__all__ = ["mood"]

NAMES = ["spell-en", "spell-fr"]


class Stopped(BaseException):
    """As if the process were killed."""


@pytest.fixture
def cache(own_cache: Path) -> Path:
    return own_cache / "eval"


@pytest.fixture
def asked(trained, tasks, make_adapter, tmp_path, cache):
    """(what is compared, the request)."""
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    pairs = {"spell-en": factors(0.1), "spell-fr": factors(0.1, 1)}
    folders = [make_adapter(tmp_path / name, made) for name, made in pairs.items()]
    (tasks / "spell" / "fr").mkdir()
    rows = (tasks / "spell" / "en" / "test.jsonl").read_bytes()
    (tasks / "spell" / "fr" / "test.jsonl").write_bytes(rows)
    bundle = tmp_path / "x.hydra.safetensors"
    merge(read_adapters(folders), bundle, error=0.3)
    compared = read_compared([*map(str, folders), str(bundle)])
    return compared, EvaluationRequest(str(tmp_path / "base"), tasks, rows=6, answers=1)


@pytest.fixture
def scored(monkeypatch) -> list[str]:
    """Tasks that were scored, by adapter; a name of "stop" in it ends the process instead."""
    names: list[str] = []
    task_result = compare.task_result

    def counted(name, *given):
        if names[:1] == ["stop"] and len(names) > 1:
            raise Stopped
        names.append(name)
        return task_result(name, *given)

    monkeypatch.setattr(compare, "task_result", counted)
    return names


def plain(result):
    return replace(result, seconds=0)


def test_an_interrupted_evaluation_continues_with_the_next_task(asked, scored) -> None:
    scored.append("stop")
    with pytest.raises(Stopped):
        evaluate(*asked)
    assert scored == ["stop", "spell-en"]
    scored.clear()
    result = plain(evaluate(*asked))
    assert scored == ["spell-fr"]
    assert [task.adapter for task in result.tasks] == NAMES
    scored.clear()
    assert plain(evaluate(*asked)) == result
    assert scored == []


@pytest.mark.parametrize(
    "other", ["task", *map(slow, ("rows", "config", "answers", "base", "meta"))]
)
def test_what_differs_is_measured_again(asked, scored, tasks, tmp_path, other) -> None:
    compared, request = asked
    evaluate(compared, request)
    if other == "rows":
        request = replace(request, rows=5)
    if other == "answers":
        request = replace(request, answers=2)
    if other == "base":
        file = tmp_path / "base" / "model.safetensors"
        changed = {key: (1.01 * x).astype(x.dtype) for key, x in load_file(file).items()}
        save_file(changed, file, {"format": "pt"})
    if other == "config":
        file = tmp_path / "base" / "generation_config.json"
        file.write_text(file.read_text() + " ")
    if other == "meta":
        file = tasks / "spell" / "META.json"
        file.write_text(file.read_text().replace("Spell.", "Write."))
    if other == "task":
        with (tasks / "spell" / "en" / "test.jsonl").open("a") as file:
            file.write('{"input": "11", "output": "eleven"}\n')
    scored.clear()
    evaluate(compared, request)
    assert scored == (NAMES[:1] if other == "task" else NAMES)


def test_a_base_without_files_keeps_nothing(asked, cache, monkeypatch) -> None:
    monkeypatch.setattr(compare, "base_hash", lambda base: None)
    compared, request = asked
    evaluate(compared, replace(request, only=["spell-en"]))
    assert not cache.exists()


def test_other_factors_are_measured_again(asked, scored) -> None:
    compared, request = asked
    for seed in (2, 3):
        scored.clear()
        others = {"other": {"spell-fr": factors(0.1, seed)}}
        evaluate(replace(compared, other_methods=others), request)
    assert scored == ["spell-fr"]


def test_another_head_is_measured_again(asked, scored, mood, tmp_path) -> None:
    request = replace(asked[1], tasks=mood)
    folder = classifier(tmp_path / "mood-en")
    evaluate(read_compared([str(folder)]), request)
    file = folder / "adapter_model.safetensors"
    head = "base_model.model.score.weight"
    save_file({key: x * (2 if key == head else 1) for key, x in load_file(file).items()}, file)
    for _ in range(2):
        evaluate(read_compared([str(folder)]), request)
    assert scored == ["mood-en", "mood-en"]
