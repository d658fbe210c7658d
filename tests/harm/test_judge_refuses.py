"""What the judge does not measure: logits that are not finite. And what its memory depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from hydraopt import read_adapters
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import JsonCache
from hydraopt.basemodel.writing import not_finite
from hydraopt.cli.prompting import notes_on_cut
from hydraopt.errors import NumericalError
from hydraopt.harm import answers
from hydraopt.harm import judge as module
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.lesson import Teacher
from hydraopt.harm.refit import NOT_TRAINED
from tests.harm.measuring import measured
from tests.harm.test_harm import asked_of, factors_of
from tests.raising import raises


@pytest.fixture
def judge_of(trained, make_adapter, tmp_path: Path):
    """Makes judges over one memory, of an adapter whose factors are times ``size``."""
    tokenizer = trained[1]
    for part in trained:
        part.save_pretrained(tmp_path / "base")

    def make(size: float = 0.3) -> AnswerJudge:
        folder = tmp_path / f"at{size}" / "fr"
        (adapter,) = read_adapters([make_adapter(folder, factors_of(0, size))])
        asked, memory = {"fr": asked_of(tokenizer, 4)}, JsonCache(tmp_path / "memory")
        return AnswerJudge(tmp_path / "base", [adapter], asked, loaded=trained, memory=memory)

    return make


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "memory").glob("*.json"))


def test_an_adapter_that_overflows_is_named_and_nothing_is_kept(judge_of, tmp_path) -> None:
    with raises(NumericalError, adapter="fr", got="not finite"):
        judge_of(5e37).answers("fr")
    with raises(NumericalError, adapter="fr", got="not finite"):
        measured(judge_of(5e37), "fr", factors_of(1))
    assert kept(tmp_path) == []


def test_an_adapter_that_cannot_write_its_own_text_is_named(
    make_adapter, trained, tmp_path
) -> None:
    (adapter,) = read_adapters([make_adapter(tmp_path / "fr", factors_of(0, 5e37))])
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    judge = AnswerJudge(tmp_path / "base", [adapter], {}, loaded=trained)
    with raises(NumericalError, adapter="fr", got="not finite"):
        judge.sensitivities()


def test_an_original_that_is_not_finite_on_its_answers_is_named(
    judge_of, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(
        answers,
        "answered",
        lambda model, tokenizer, asked, *_: [Encoded(x.prompt, (3,)) for x in asked],
    )
    judge = judge_of(5e37)
    judge.answers("fr")
    before = kept(tmp_path)
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        measured(judge, "fr", factors_of(1))
    assert kept(tmp_path) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_what_is_measured_is_named_and_not_kept(judge_of, tmp_path, value: float) -> None:
    judge, bad = judge_of(), factors_of(1)
    bad = {path: (np.full_like(b, value), a) for path, (b, a) in bad.items()}
    judge.answers("fr")
    before = kept(tmp_path)
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        measured(judge, "fr", bad)
    assert kept(tmp_path) == before
    assert np.isfinite(measured(judge, "fr", factors_of(1)).harm.kl)


def test_answers_that_fill_the_positions_are_not_cut_by_tokens(judge_of, monkeypatch) -> None:
    """More tokens would judge no more of them, so nobody is told to ask for more."""
    judge = judge_of()
    end = next(iter(judge._ends))
    said = [Encoded((1,), (3, 4, 5)), Encoded((1,), (3, 4, 5, end)), Encoded((1,), ())]
    monkeypatch.setattr(judge, "answers", lambda _: said)
    for tokens, by_tokens in ((3, True), (4, False), (128, False)):
        judge.answer_tokens = tokens
        assert judge.cut() == {"fr": (2, by_tokens)}
    assert judge.cut([]) == {}
    notes = notes_on_cut({"fr": (1, False), "de": (2, True)}, 128)
    assert [(note.code, note.where) for note in notes] == [
        ("answers_cut", "de"),
        ("answers_end", "fr"),
    ]


def test_what_cannot_be_trained_is_named(judge_of, monkeypatch) -> None:
    """Nothing of it was measured before where errors are limited."""
    judge = judge_of()

    def refit(*_: object, **__: object) -> None:
        raise not_finite(NOT_TRAINED)

    monkeypatch.setattr(module, "refit", refit)
    monkeypatch.setattr(judge, "_taught", lambda _: Teacher({}, []))
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        judge.refit("fr", dict)


def test_another_error_of_a_refit_is_not_told_as_one_of_logits(judge_of, monkeypatch) -> None:
    judge = judge_of()

    def refit(*_: object, **__: object) -> None:
        raise NumericalError("a record has too many numbers")

    monkeypatch.setattr(module, "refit", refit)
    monkeypatch.setattr(judge, "_taught", lambda _: Teacher({}, []))
    with pytest.raises(NumericalError):
        judge.refit("fr", dict)


@pytest.mark.parametrize("library", [torch, transformers])
def test_another_version_of_a_library_has_another_memory(judge_of, monkeypatch, library) -> None:
    measured(judge_of(), "fr", factors_of(1))

    def never(*_: object) -> None:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr(answers, "answered", never)
    judge_of().answers("fr")
    monkeypatch.setattr(library, "__version__", "0.0.1")
    with pytest.raises(AssertionError, match="asked again"):
        judge_of().answers("fr")


def test_answers_that_end_at_other_tokens_of_the_base_are_others(judge_of, monkeypatch) -> None:
    judge = judge_of()
    before = judge._base_key
    monkeypatch.setattr(judge._loaded[0].generation_config, "eos_token_id", [2, 9])
    assert judge_of()._base_key != before
