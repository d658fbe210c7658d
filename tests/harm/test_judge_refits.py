"""Who is refitted: tasks of enough answers that judge; and what of it is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hydraopt import read_adapters
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import JsonCache
from hydraopt.coding.forms import FORMS
from hydraopt.coding.records import PartsRecord
from hydraopt.harm import answers as answers_module
from hydraopt.harm import judge as judge_module
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.recall import kept_records, recalled_records
from hydraopt.merging.look import HarmSettings
from tests.basemodel.cases import PATHS, factors_of
from tests.harm.measuring import measured
from tests.harm.test_refit import coded_of
from tests.marks import slow


@pytest.mark.parametrize(
    ("count", "lessons", "asked"),
    [(15, 0, 0), (16, 0, 1), (40, 0, 1), (0, 40, 0), (4, 11, 0), (4, 12, 1), (3, 40, 0)],
)
def test_a_refit_needs_four_answers_that_judge(
    monkeypatch, make_adapter, tmp_path, count: int, lessons: int, asked: int
) -> None:
    calls, answers_to = [], []

    def refit(model, teachers, adapter, modules, told, settings):
        calls.append([len(x.answers) + len(x.held_out) for x in teachers])
        return {}

    def answered(model, tokenizer, prompts, factors, most):
        answers_to.append(len(prompts))
        return [Encoded(x.prompt, (3,)) for x in prompts]

    monkeypatch.setattr(judge_module, "refit", refit)
    monkeypatch.setattr(judge_module, "learns_in", lambda model: "float32")
    monkeypatch.setattr(answers_module, "answered", answered)
    (adapter,) = read_adapters([make_adapter(tmp_path / "de", factors_of(0))])
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"), dtype="float32", config=config)
    model.get_input_embeddings = lambda: None
    model.named_modules = model.named_buffers = lambda: ()
    prompts = [Encoded((1, 2 + i), ()) for i in range(count + lessons)]
    settings = HarmSettings(prompts_if_refit=count, refit_prompts=count + lessons)
    loaded = model, SimpleNamespace(eos_token_id=0)
    judge = AnswerJudge(
        "nowhere", [adapter], {"de": prompts}, refits=True, settings=settings,
        loaded=loaded, memory=JsonCache(None),
    )  # fmt: skip
    assert judge.refit("de", dict) == {}
    assert calls == [[count + lessons]] * asked
    # Lessons take minutes: they are answered where they are learned from.
    assert sum(answers_to) == count + lessons * asked


def test_too_few_different_prompts_are_not_learned_from(judge_of, trainings) -> None:
    """Of the same few prompts, again and again, nothing is left to learn from beside the judges."""
    judge = judge_of(8)
    judge._prompts["fr"] = 8 * judge._prompts["fr"][:4]
    assert judge.refit("fr", dict) == {}
    assert trainings == []


@pytest.fixture
def judge_of(trained, make_adapter, tmp_path: Path):
    """Makes judges over one memory; by their lessons."""
    tokenizer = trained[1]
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    (adapter,) = read_adapters([make_adapter(tmp_path / "fr", factors_of(0, 0.02))])

    def asked(some: range) -> list[Encoded]:
        return [Encoded((1, *tokenizer(f"Spell.\n{i}\n=>")["input_ids"]), ()) for i in some]

    def make(lessons: int = 12) -> AnswerJudge:
        return AnswerJudge(
            tmp_path / "base", [adapter], {"fr": asked(range(8 + lessons))}, refits=True,
            settings=HarmSettings(prompts_if_refit=8), loaded=trained,
            memory=JsonCache(tmp_path / "memory"),
        )  # fmt: skip

    return make


def test_progress_tells_of_answers_that_are_not_remembered(judge_of, monkeypatch) -> None:
    monkeypatch.setattr(answers_module, "BLOCK", 5)
    said: list[tuple[str, int, int]] = []
    judge = judge_of()
    judge._progress = lambda *told: said.append(told)
    judge.answers("fr")
    assert said == [("answers of fr", 5, 8), ("answers of fr", 8, 8)]
    judge.answers("fr")
    assert len(said) == 2
    judge.lessons("fr")
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

    def counted(*given, told, **_):
        made.append(sum(len(x.answers) + len(x.held_out) for x in given[1]))
        records = refit(*given, settings=HarmSettings(steps=8, stops=(4, 8), rate=0.02))
        # So few steps may not help; what is remembered need not be better.
        return records or {path: x.record for path, x in given[3].items()}

    monkeypatch.setattr(judge_module, "refit", counted)
    return made


def same(one, two) -> bool:
    pairs = [(one[path].factors, two[path].factors) for path in one if path in two]
    alike = (np.array_equal(x.B, y.B) and np.array_equal(x.A, y.A) for x, y in pairs)
    return one.keys() == two.keys() and all(alike)


def test_a_refit_is_remembered(judge_of, make_adapter, tmp_path, trainings) -> None:
    _, coded = coded_of(make_adapter, tmp_path)
    first = judge_of().refit("fr", lambda: coded)
    assert first.keys() == coded.keys()
    assert same(judge_of().refit("fr", lambda: coded), first)
    assert trainings == [20]
    judge_of(13).refit("fr", lambda: coded)
    longer = {
        path: replace(x, record=replace(x.record, exponents=x.record.exponents + 1))
        for path, x in coded.items()
    }
    judge_of().refit("fr", lambda: longer)
    assert trainings == [20, 21, 20]


def test_modules_without_parts_are_measured_as_if_left_out(judge_of, monkeypatch) -> None:
    other = factors_of(1, 0.02)
    told = measured(judge_of(), "fr", {PATHS[0]: other[PATHS[0]]})
    monkeypatch.setattr(judge_module, "drift_of", lambda *_: pytest.fail("measured again"))
    b, a = other[PATHS[1]]
    none = {PATHS[0]: other[PATHS[0]], PATHS[1]: (b[:, :0], a[:0])}
    assert measured(judge_of(), "fr", none) == told


def test_harm_apart_is_of_those_that_are_held_out_now(judge_of, tmp_path) -> None:
    """Of eight prompts four are, beside eight lessons or nine, but not the same."""
    other = factors_of(1, 0.02)
    first, second = (measured(judge_of(lessons), "fr", other, apart=True) for lessons in (8, 9))
    assert first.harm.answers == second.harm.answers == 4
    for file in (tmp_path / "memory").iterdir():
        file.unlink()
    assert measured(judge_of(9), "fr", other, apart=True) == second != first


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
    trained, make_adapter, tmp_path, mine: range, unlearned: tuple[int, ...]
) -> None:
    """Tasks of equal content share a stream, which one of them learns for both."""
    names = ("de", "fr")
    adapters = read_adapters([make_adapter(tmp_path / x, factors_of(0, 0.02)) for x in names])
    asked = {
        name: [Encoded((1, *trained[1](f"Spell.\n{i}\n=>")["input_ids"]), ()) for i in some]
        for name, some in zip(names, (mine, range(16)), strict=True)
    }
    judge = AnswerJudge(
        "nowhere", adapters, asked, refits=True, loaded=trained, memory=JsonCache(None)
    )
    told = measured(judge, "de", factors_of(1, 0.02), apart=True).harm
    assert (told.answers, told.held_out) == (len(unlearned) or len(mine), bool(unlearned))
    assert [mine[i] for i in judge._unlearned("de")] == list(unlearned)
    assert measured(judge, "de", factors_of(1, 0.02)).harm.held_out


def test_tasks_of_equal_content_are_learned_from_together(
    trained, make_adapter, tmp_path, monkeypatch
) -> None:
    names = ("de", "fr", "other")
    adapters = read_adapters(
        [make_adapter(tmp_path / x, factors_of(x == "other", 0.02)) for x in names]
    )
    asked = {
        name: [Encoded((1, 2 + i), ()) for i in range(16 + 4 * k)] for k, name in enumerate(names)
    }
    taught = []

    def refit(model, teachers, adapter, modules, told, settings):
        taught.append([len(x.answers) + len(x.held_out) for x in teachers])
        return {}

    monkeypatch.setattr(judge_module, "refit", refit)
    memory = JsonCache(tmp_path / "memory")
    judge = AnswerJudge("nowhere", adapters, asked, refits=True, loaded=trained, memory=memory)
    for name in names:
        judge.refit(name, dict)
    assert taught == [[20], [24]]


def test_that_nothing_helped_is_remembered_too(
    judge_of, make_adapter, tmp_path, trainings, monkeypatch
) -> None:
    _, coded = coded_of(make_adapter, tmp_path)
    monkeypatch.setattr(judge_module, "refit", lambda *_, told, settings: trainings.append(0) or {})
    assert judge_of().refit("fr", lambda: coded) == judge_of().refit("fr", lambda: coded) == {}
    assert trainings == [0]


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
def test_a_broken_memory_is_learned_again(
    judge_of, make_adapter, tmp_path, trainings, content: str
) -> None:
    _, coded = coded_of(make_adapter, tmp_path)
    first = judge_of().refit("fr", lambda: coded)
    files = [x for x in (tmp_path / "memory").iterdir() if "stream" in x.read_text()]
    assert len(files) == 1
    files[0].write_text(content)
    assert same(judge_of().refit("fr", lambda: coded), first)
    assert trainings == [20, 20]


@pytest.mark.parametrize("form", FORMS)
def test_records_of_any_form_are_recalled(make_adapter, tmp_path, form: str) -> None:
    _, coded = coded_of(make_adapter, tmp_path, form=form)
    records = {path: x.record for path, x in list(coded.items())[1:]}
    kept = json.loads(json.dumps(kept_records(records, coded)))
    again = recalled_records(kept, coded)
    assert again is not None
    assert same(again, records)
    assert {path: x.mode for path, x in again.items()} == {p: x.mode for p, x in records.items()}
    assert kept_records(again, coded) == kept


@pytest.mark.slow
def test_a_memory_of_other_parts_is_learned_again(
    judge_of, make_adapter, tmp_path, trainings
) -> None:
    _, coded = coded_of(make_adapter, tmp_path)
    first = judge_of().refit("fr", lambda: coded)
    one = slice(1)
    fewer = {
        path: PartsRecord(r.left.keep(one), r.right.keep(one), r.exponents[one])
        for path, r in ((path, x.record) for path, x in coded.items())
    }
    file = next(x for x in (tmp_path / "memory").iterdir() if "stream" in x.read_text())
    file.write_text(json.dumps(kept_records(fewer, coded)))
    assert same(judge_of().refit("fr", lambda: coded), first)
    assert trainings == [20, 20]


@pytest.mark.parametrize(("refits", "asked"), [(True, 16), (False, 6)])
def test_what_follows_the_prompts_that_judge_is_learned_from(
    judge_of, tmp_path, monkeypatch, refits: bool, asked: int
) -> None:
    judge_of()  # saves the base model
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path))
    settings = HarmSettings(prompts=6, prompts_if_refit=4, refit_prompts=16, least_held_out=1)
    seen = []

    def refit(model, teachers, adapter, modules, told, settings):
        seen.extend(len(x.answers) + len(x.held_out) for x in teachers)
        return {}

    monkeypatch.setattr(judge_module, "refit", refit)
    adapters = read_adapters([tmp_path / "fr"])
    texts = {"fr": [f"Spell.\n{i}\n=>" for i in range(20)]}
    base = str(tmp_path / "base")
    judge = AnswerJudge(base, adapters, texts, refits=refits, settings=settings)
    assert judge.refit("fr", dict) == {}
    assert seen == [asked]


def test_progress_counts_steps_of_all_tasks(
    trained, make_adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    # Half of one start; a second start as well; remembered. "it" has the content of "fr", and is
    # asked because that has learned nothing.
    steps = {"de": [(80, 160), (160, 160)], "en": [(160, 160), (320, 320)], "fr": [], "it": []}
    seeds = {"de": 0, "en": 1, "fr": 2, "it": 2}
    folders = [make_adapter(tmp_path / name, factors_of(seed)) for name, seed in seeds.items()]

    def trained_on(self, name, modules, report):
        for said in steps[name]:
            report(*said)

    monkeypatch.setattr(AnswerJudge, "_trained", trained_on)
    texts = {name: ["Spell."] for name in seeds}
    progress: list[tuple[str, int, int]] = []
    told = lambda *said: progress.append(said)  # noqa: E731
    judge = AnswerJudge(str(tmp_path / "base"), read_adapters(folders), texts, told, refits=True)
    for name in steps:
        judge.refit(name, dict)
    assert {stage for stage, *_ in progress} == {"training on answers, steps"}
    wanted = [(80, 480), (160, 480), (320, 480), (480, 640), (640, 640), (800, 800)]
    assert [(done, most) for _, done, most in progress] == wanted
