"""Who is refitted: tasks of enough answers that judge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hydraopt.basemodel import judge as judge_module
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.judge import Judge


@pytest.mark.parametrize(("count", "asked"), [(0, 0), (15, 0), (16, 1), (40, 1)])
def test_a_refit_needs_four_answers_that_judge(monkeypatch, count: int, asked: int) -> None:
    calls = []

    made_anew = SimpleNamespace(records={"a.path": "a record"})

    def refit(model, answers, originals, modules):
        calls.append(len(answers))
        return made_anew

    monkeypatch.setattr(judge_module, "refit", refit)
    answers = [Encoded((1, 2), (3,))] * count
    judge = Judge.__new__(Judge)
    monkeypatch.setattr(judge, "_prompts", {"de": answers}, raising=False)
    monkeypatch.setattr(judge, "_model", None, raising=False)
    monkeypatch.setattr(judge, "answers", lambda task: answers, raising=False)
    monkeypatch.setattr(judge, "_originals", lambda task: {}, raising=False)
    made = judge.refit("de", dict)
    assert calls == [count] * asked
    assert made == (made_anew.records if asked else {})
