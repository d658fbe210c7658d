"""What the judge does not measure: logits that are not finite. And what its memory depends on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from hydraopt.cli.options import notes_on_cut
from hydraopt.codec import FORMS
from hydraopt.errors import NumericalError
from hydraopt.merging import HarmSettings
from hydraopt.model import Encoded, judge as judge_module, judge as module, not_finite
from hydraopt.model.drift import drift_of, reference_of
from hydraopt.model.refit import NOT_TRAINED, records_from_json, records_to_json
from tests.basemodel.cases import PATHS, factors_of
from tests.harm.cases import coded_of, measured, rows, same, spelling
from tests.raising import raises


@pytest.mark.parametrize(
    ("size", "other"), [(5e37, 1.0), (0.3, np.nan), (0.3, np.inf), (0.3, 1e38)]
)
def test_logits_that_are_not_finite_are_named_and_not_kept(
    judge_of, questions, tmp_path, size: float, other: float
) -> None:
    """Those of the original, or with the factors that are measured."""
    judge = judge_of(4, size)
    judge.answers("fr")
    before = sorted((tmp_path / "memory").iterdir())
    bad = {path: (np.full_like(b, other), a) for path, (b, a) in factors_of(1).items()}
    with raises(NumericalError, adapter="fr", expected="finite numbers"):
        measured(judge, "fr", bad)
    assert sorted((tmp_path / "memory").iterdir()) == before


def test_an_adapter_that_cannot_answer_write_or_be_trained_is_named(
    judge_of, tmp_path, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise not_finite(NOT_TRAINED)

    monkeypatch.setattr(module, "refit", refuse)
    for ask in (
        lambda: judge_of(4, 5e37).answers("fr"),
        lambda: judge_of({}, 5e37, {"fr": 0}).sensitivities(),
        lambda: judge_of(16, refits=True).refit("fr", dict),
    ):
        with raises(NumericalError, adapter="fr", expected="finite numbers"):
            ask()
        assert len(list((tmp_path / "memory").glob("*.json"))) <= 1  # answers of the last


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


def test_other_libraries_and_other_ends_have_another_memory(
    trained, judge_of, questions, monkeypatch
) -> None:
    for count, (owner, name, value) in enumerate(
        (
            (torch, "__version__", torch.__version__),
            (torch, "__version__", "0.0.1"),
            (transformers, "__version__", "0.0.1"),
            (trained[0].generation_config, "eos_token_id", [2, 9]),
        ),
        1,
    ):
        monkeypatch.setattr(owner, name, value)
        for _ in range(2):
            judge_of(4).answers("fr")
        assert questions == [4] * count


# --- who is refitted: tasks of enough answers that judge; and wha --------------------------------


EIGHT = HarmSettings(prompts_if_refit=8)


@pytest.fixture
def refitter_of(judge_of):
    """Makes judges that refit, by their lessons; harm is measured on eight other prompts."""
    return lambda lessons=12, **more: judge_of(
        8 + lessons, 0.02, refits=True, settings=EIGHT, **more
    )


@pytest.fixture
def taught(monkeypatch) -> list[int]:
    """How many answers the teacher of each refit has; nothing is learned from it."""
    made = []

    def refit(model, teacher, *_):
        made.append(len(teacher.answers) + len(teacher.held_out))
        return {}

    monkeypatch.setattr(judge_module, "refit", refit)
    return made


@pytest.mark.parametrize(
    ("count", "lessons", "asked"),
    [(15, 0, 0), (16, 0, 1), (40, 0, 1), (0, 40, 0), (4, 11, 0), (4, 12, 1), (3, 40, 0)],
)
def test_a_refit_needs_four_answers_that_judge(
    judge_of, taught, questions, count: int, lessons: int, asked: int
) -> None:
    settings = HarmSettings(prompts_if_refit=count, refit_prompts=count + lessons)
    judge = judge_of(count + lessons, refits=True, settings=settings)
    assert judge.refit("fr", dict) == {}
    assert taught == [count + lessons] * asked
    # Lessons take minutes: they are answered where they are learned from.
    assert sum(questions) == count + lessons * asked


def test_too_few_different_prompts_are_not_learned_from(trained, judge_of, taught) -> None:
    """Of the same few prompts, again and again, nothing is left to learn from beside the judges."""
    prompts = 8 * rows(range(4))
    assert judge_of({"fr": prompts}, refits=True, settings=EIGHT).refit("fr", dict) == {}
    assert taught == []


def test_progress_tells_of_answers_that_are_not_remembered(
    refitter_of, questions, monkeypatch
) -> None:
    monkeypatch.setattr(judge_module, "BLOCK", 5)
    said: list[tuple[str, int, int]] = []
    judge = refitter_of(progress=lambda *told: said.append(told))
    judge.answers("fr")
    assert said == [("answers of fr", 5, 8), ("answers of fr", 8, 8)]
    judge.answers("fr")
    assert len(said) == 2
    judge.training_answers("fr")
    # By another name, or its time left would have in it what was done in between.
    assert said[2:] == [
        ("more answers of fr", 5, 12),
        ("more answers of fr", 10, 12),
        ("more answers of fr", 12, 12),
    ]


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """How many answers each training had."""
    made, refit = [], judge_module.refit

    def counted(model, teacher, coded, *_):
        made.append(len(teacher.answers) + len(teacher.held_out))
        settings = HarmSettings(steps=8, judge_after=(4, 8), learning_rate=0.02)
        # So few steps may not help; what is remembered need not be better.
        return refit(model, teacher, coded, settings=settings) or {
            path: x.record for path, x in coded.items()
        }

    monkeypatch.setattr(judge_module, "refit", counted)
    return made


@pytest.mark.slow
def test_a_refit_is_remembered(refitter_of, tmp_path, trainings) -> None:
    _, coded = coded_of(tmp_path)
    first = refitter_of().refit("fr", lambda: coded)
    assert first.keys() == coded.keys()
    assert same(refitter_of().refit("fr", lambda: coded), first)
    assert trainings == [20]
    refitter_of(13).refit("fr", lambda: coded)
    longer = {
        path: replace(x, record=replace(x.record, exponents=x.record.exponents + 1))
        for path, x in coded.items()
    }
    refitter_of().refit("fr", lambda: longer)
    assert trainings == [20, 21, 20]


def test_modules_without_parts_are_measured_as_if_left_out(refitter_of, monkeypatch) -> None:
    other = factors_of(1, 0.02)
    told = measured(refitter_of(), "fr", {PATHS[0]: other[PATHS[0]]})
    monkeypatch.setattr(judge_module, "drift_of", lambda *_: pytest.fail("measured again"))
    b, a = other[PATHS[1]]
    none = {PATHS[0]: other[PATHS[0]], PATHS[1]: (b[:, :0], a[:0])}
    assert measured(refitter_of(), "fr", none) == told


def test_harm_apart_is_of_those_that_are_held_out_now(refitter_of, tmp_path) -> None:
    """Of eight prompts four are, beside eight lessons or nine, but not the same."""
    other = factors_of(1, 0.02)
    first, second = (measured(refitter_of(lessons), "fr", other, apart=True) for lessons in (8, 9))
    assert first.harm.answers == second.harm.answers == 4
    for file in (tmp_path / "memory").iterdir():
        file.unlink()
    assert measured(refitter_of(9), "fr", other, apart=True) == second != first


@pytest.mark.parametrize(
    ("mine", "unlearned"),
    [
        (range(60, 76), (63, 67, 71, 75)),  # nothing in common: every fourth of all
        (range(60, 68), (63, 67)),
        (range(15, -1, -1), (12, 8, 4, 0)),
        (range(4), (3,)),
        (range(3), ()),
    ],
)
def test_harm_apart_is_of_what_no_twin_learns_from(
    trained, judge_of, mine: range, unlearned: tuple[int, ...]
) -> None:
    """Tasks of equal content share a stream, which one of them learns for both."""
    model = trained[0]
    asked = {"de": rows(mine), "fr": rows(range(16))}
    judge, other = judge_of(asked, 0.02, refits=True), factors_of(1, 0.02)
    drift = drift_of(model, reference_of(model, judge.answers("de"), factors_of(0, 0.02)), other)
    apart = drift.only([mine.index(i) for i in unlearned or mine]).summary(bool(unlearned))
    assert measured(judge, "de", other, apart=True) == apart
    assert measured(judge, "de", other).harm.held_out


def test_tasks_of_equal_content_are_learned_from_together(
    trained, judge_of, taught, questions
) -> None:
    counts, seeds = {"de": 16, "fr": 20, "other": 24}, {"de": 0, "fr": 0, "other": 1}
    asked = {name: rows(range(count)) for name, count in counts.items()}
    judge = judge_of(asked, seeds=seeds, refits=True)
    for name in asked:
        judge.refit(name, dict)
    assert taught == [20, 24]


def test_that_nothing_helped_is_remembered_too(refitter_of, tmp_path, taught) -> None:
    _, coded = coded_of(tmp_path)
    for _ in range(2):
        assert refitter_of().refit("fr", lambda: coded) == {}
    assert taught == [20]


@pytest.mark.parametrize("form", FORMS)
def test_records_of_any_form_are_recalled(tmp_path, form: str) -> None:
    _, coded = coded_of(tmp_path, form=form)
    records = {path: x.record for path, x in list(coded.items())[1:]}
    kept = json.loads(json.dumps(records_to_json(records, coded)))
    again = records_from_json(kept, coded)
    assert again is not None
    assert same(again, records)
    assert {path: x.mode for path, x in again.items()} == {p: x.mode for p, x in records.items()}
    assert records_to_json(again, coded) == kept


@pytest.mark.parametrize(("refits", "asked"), [(True, 16), (False, 6)])
def test_what_follows_the_prompts_that_judge_is_learned_from(
    judge_of, taught, refits: bool, asked: int
) -> None:
    settings = HarmSettings(prompts=6, prompts_if_refit=4, refit_prompts=16, least_held_out=1)
    judge = judge_of({"fr": spelling(20)}, 0.02, refits=refits, settings=settings)
    assert judge.refit("fr", dict) == {}
    assert taught == [asked]


def test_progress_counts_the_steps_of_each_content(trained, judge_of, questions, monkeypatch):
    """ "it" has the content of "fr", and is asked because that has learned nothing."""
    seeds = {"de": 0, "fr": 2, "it": 2}

    def refit(model, teacher, coded, report, settings):
        report(80, 160)
        return {}

    monkeypatch.setattr(judge_module, "refit", refit)
    told: list[tuple[str, int, int]] = []
    given = dict.fromkeys(seeds, rows(range(24)))
    judge = judge_of(given, seeds=seeds, refits=True, progress=lambda *said: told.append(said))
    for name in seeds:
        judge.refit(name, dict)
    assert [x for x in told if "steps" in x[0]] == [
        (f"training steps, {name} ({number} of 2)", 80, 160)
        for name, number in (("de", 1), ("fr", 2))
    ]
