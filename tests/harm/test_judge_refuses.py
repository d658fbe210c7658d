"""What the judge does not measure: logits that are not finite. And what its memory depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.writing import not_finite
from hydraopt.cli.prompting import notes_on_cut
from hydraopt.errors import NumericalError
from hydraopt.harm import judge as module
from hydraopt.harm.refit import NOT_TRAINED
from tests.basemodel.cases import factors_of
from tests.harm.cases import measured
from tests.raising import raises


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "memory").glob("*.json"))


def test_an_adapter_that_overflows_is_named_and_nothing_is_kept(judge_of, tmp_path) -> None:
    with raises(NumericalError, adapter="fr", got="not finite"):
        judge_of(4, 5e37).answers("fr")
    with raises(NumericalError, adapter="fr", got="not finite"):
        measured(judge_of(4, 5e37), "fr", factors_of(1))
    assert kept(tmp_path) == []


def test_an_adapter_that_cannot_write_its_own_text_is_named(judge_of) -> None:
    with raises(NumericalError, adapter="fr", got="not finite"):
        judge_of({}, 5e37, {"fr": 0}).sensitivities()


def test_an_original_that_is_not_finite_on_its_answers_is_named(
    judge_of, questions, tmp_path
) -> None:
    judge = judge_of(4, 5e37)
    judge.answers("fr")
    before = kept(tmp_path)
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        measured(judge, "fr", factors_of(1))
    assert kept(tmp_path) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_what_is_measured_is_named_and_not_kept(judge_of, tmp_path, value: float) -> None:
    judge, bad = judge_of(4), factors_of(1)
    bad = {path: (np.full_like(b, value), a) for path, (b, a) in bad.items()}
    judge.answers("fr")
    before = kept(tmp_path)
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        measured(judge, "fr", bad)
    assert kept(tmp_path) == before
    assert np.isfinite(measured(judge, "fr", factors_of(1)).harm.kl)


def test_answers_that_fill_the_positions_are_not_cut_by_tokens(
    trained, judge_of, monkeypatch
) -> None:
    """More tokens would judge no more of them, so nobody is told to ask for more."""
    judge, end = judge_of(4), trained[1].eos_token_id
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

    def refit(*_: object, **__: object) -> None:
        raise not_finite(NOT_TRAINED)

    monkeypatch.setattr(module, "refit", refit)
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        judge_of(16, refits=True).refit("fr", dict)


def test_another_error_of_a_refit_is_not_told_as_one_of_logits(judge_of, monkeypatch) -> None:
    def refit(*_: object, **__: object) -> None:
        raise NumericalError("a record has too many numbers")

    monkeypatch.setattr(module, "refit", refit)
    with pytest.raises(NumericalError) as refused:
        judge_of(16, refits=True).refit("fr", dict)
    assert refused.type is NumericalError


@pytest.mark.parametrize("library", [torch, transformers])
def test_another_version_of_a_library_has_another_memory(
    judge_of, questions, monkeypatch, library
) -> None:
    for _ in range(2):
        judge_of(4).answers("fr")
    assert questions == [4]
    monkeypatch.setattr(library, "__version__", "0.0.1")
    judge_of(4).answers("fr")
    assert questions == [4, 4]


def test_answers_that_end_at_other_tokens_of_the_base_are_others(
    trained, judge_of, questions, monkeypatch
) -> None:
    judge_of(4).answers("fr")
    monkeypatch.setattr(trained[0].generation_config, "eos_token_id", [2, 9])
    judge_of(4).answers("fr")
    assert questions == [4, 4]
