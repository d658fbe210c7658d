"""Who is refitted: tasks of enough answers that judge; and what of it is remembered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hydraopt.coding.forms import FORMS
from hydraopt.coding.records import PartsRecord
from hydraopt.harm import answers as answers_module
from hydraopt.harm import judge as judge_module
from hydraopt.harm.cached_values import records_from_json, records_to_json
from hydraopt.harm.drift import drift_of, reference_of
from hydraopt.merging.look import HarmSettings
from tests.basemodel.cases import PATHS, asked_of, factors_of
from tests.harm.cases import coded_of, measured, same, spelling
from tests.marks import slow

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
    prompts = 8 * asked_of(trained[1], range(4))
    assert judge_of({"fr": prompts}, refits=True, settings=EIGHT).refit("fr", dict) == {}
    assert taught == []


def test_progress_tells_of_answers_that_are_not_remembered(
    refitter_of, questions, monkeypatch
) -> None:
    monkeypatch.setattr(answers_module, "BLOCK", 5)
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
        (range(60, 76), (63, 67, 71, 75)),  # nothing in common: every fourth
        # What judges for one of them is learned for none.
        (range(15, -1, -1), (15, 12, 11, 8, 7, 4, 3, 0)),
        (range(60, 68), tuple(range(60, 68))),  # nothing in common, too few to learn from: all
        (range(4), (3,)),  # too few to learn from, so all but those that the other learns from
        (range(3), ()),
    ],
)
def test_harm_apart_is_of_what_no_twin_learns_from(
    trained, judge_of, mine: range, unlearned: tuple[int, ...]
) -> None:
    """Tasks of equal content share a stream, which one of them learns for both."""
    model, tokenizer = trained
    asked = {"de": asked_of(tokenizer, mine), "fr": asked_of(tokenizer, range(16))}
    judge, other = judge_of(asked, 0.02, refits=True), factors_of(1, 0.02)
    drift = drift_of(model, reference_of(model, judge.answers("de"), factors_of(0, 0.02)), other)
    apart = drift.only([mine.index(i) for i in unlearned or mine]).summary(bool(unlearned))
    assert measured(judge, "de", other, apart=True) == apart
    assert measured(judge, "de", other).harm.held_out


def test_tasks_of_equal_content_are_learned_from_together(
    trained, judge_of, taught, questions
) -> None:
    counts, seeds = {"de": 16, "fr": 20, "other": 24}, {"de": 0, "fr": 0, "other": 1}
    asked = {name: asked_of(trained[1], range(count)) for name, count in counts.items()}
    judge = judge_of(asked, seeds=seeds, refits=True)
    for name in asked:
        judge.refit(name, dict)
    assert taught == [20, 24]


def test_that_nothing_helped_is_remembered_too(refitter_of, tmp_path, taught) -> None:
    _, coded = coded_of(tmp_path)
    for _ in range(2):
        assert refitter_of().refit("fr", lambda: coded) == {}
    assert taught == [20]


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "",
        slow('{"modules": ["other"], "stream": ""}'),
        slow('{"modules": 5, "stream": ""}'),
        slow('{"modules": [], "stream": "AAAA"}'),
        '{"modules": [], "stream": "%"}',
    ],
)
def test_a_broken_memory_is_learned_again(refitter_of, tmp_path, trainings, content: str) -> None:
    _, coded = coded_of(tmp_path)
    first = refitter_of().refit("fr", lambda: coded)
    files = [x for x in (tmp_path / "memory").iterdir() if "stream" in x.read_text()]
    assert len(files) == 1
    files[0].write_text(content)
    assert same(refitter_of().refit("fr", lambda: coded), first)
    assert trainings == [20, 20]


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


@pytest.mark.slow
def test_a_memory_of_other_parts_is_learned_again(refitter_of, tmp_path, trainings) -> None:
    _, coded = coded_of(tmp_path)
    first = refitter_of().refit("fr", lambda: coded)
    one = slice(1)
    fewer = {
        path: PartsRecord(r.left.keep(one), r.right.keep(one), r.exponents[one])
        for path, r in ((path, x.record) for path, x in coded.items())
    }
    file = next(x for x in (tmp_path / "memory").iterdir() if "stream" in x.read_text())
    file.write_text(json.dumps(records_to_json(fewer, coded)))
    assert same(refitter_of().refit("fr", lambda: coded), first)
    assert trainings == [20, 20]


@pytest.mark.parametrize(("refits", "asked"), [(True, 16), (False, 6)])
def test_what_follows_the_prompts_that_judge_is_learned_from(
    judge_of, taught, refits: bool, asked: int
) -> None:
    settings = HarmSettings(prompts=6, prompts_if_refit=4, refit_prompts=16, least_held_out=1)
    judge = judge_of({"fr": spelling(20)}, 0.02, refits=refits, settings=settings)
    assert judge.refit("fr", dict) == {}
    assert taught == [asked]


def test_progress_counts_steps_of_all_tasks(trained, judge_of, questions, monkeypatch) -> None:
    # Remembered later; half of one start; a second start as well. "it" has the content of "fr", and
    # is asked because that has learned nothing.
    seeds = {"de": 0, "en": 1, "fr": 2, "it": 2}
    steps = iter([[], [(80, 160), (160, 160)], [(160, 160), (320, 320)]])

    def refit(model, teacher, coded, told, settings):
        for said in next(steps):
            told(*said)
        return {}

    monkeypatch.setattr(judge_module, "refit", refit)
    progress: list[tuple[str, int, int]] = []
    given = dict.fromkeys(seeds, asked_of(trained[1]))
    judge_of(given, seeds=seeds, refits=True).refit("fr", dict)
    judge = judge_of(given, seeds=seeds, refits=True, progress=lambda *said: progress.append(said))
    for name in seeds:
        judge.refit(name, dict)
    wanted = [(80, 480), (160, 480), (320, 480), (480, 640), (640, 640), (800, 800)]
    assert [tuple(said) for stage, *said in progress if "steps" in stage] == wanted
    told = dict.fromkeys(stage for stage, *_ in progress if "steps" in stage)
    assert list(told) == [
        f"training steps, {x} of 3)" for x in ("de (1", "en (2", "fr (3", "it (3")
    ]
