"""Rows with several right answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hydraopt.errors import UsageError
from hydraopt.evaluate.metrics import METRICS
from hydraopt.evaluate.run import encode_task, run_task
from hydraopt.evaluate.taskfile import TaskExample, read_task_file
from tests.evaluate.test_run import factors
from tests.raising import raises


def add_row(tasks, **row: object) -> None:
    with (tasks / "spell" / "en" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"input": "x", "output": "Rome", **row}) + "\n")


@pytest.mark.parametrize("odd", [5, "Roma", {"text": ["Roma"]}, ["Roma", 5], True, 0, ""])
def test_references_of_another_shape_are_refused(tasks, odd) -> None:
    add_row(tasks, references=odd)
    with raises(UsageError, what="line 11", expected="strings"):
        read_task_file(tasks, "spell", "en")


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({}, ("Rome",)),
        ({"references": None}, ("Rome",)),
        ({"references": []}, ("Rome",)),
        ({"references": ["Rome", "Roma"]}, ("Rome", "Roma")),
    ],
)
def test_references_are_right_beside_the_output(tasks, row, right) -> None:
    add_row(tasks, **row)
    assert read_task_file(tasks, "spell", "en").rows[-1].references == right


@pytest.mark.parametrize(
    ("name", "answer", "right"),
    [
        ("exact match", "Roma ", ("Rome", "Roma")),
        ("accuracy", "Roma", ("Rome", " Roma")),
        ("intent accuracy", "Stop()", ("Play(a: b)", "Stop(c: d)")),
        ("exact match of the number after ####", "#### 3", ("#### 2", "#### 3.")),
    ],
)
def test_the_best_over_references_counts(name, answer, right) -> None:
    metric = METRICS[name]
    assert list(metric.of_row(answer, TaskExample("", right[0], right), "en")) == [1]
    assert list(metric.of_row("Paris", TaskExample("", right[0], right), "en")) == [0]


def test_an_answer_that_teacher_forcing_does_not_tell_is_right_too(trained, tasks) -> None:
    meta = {"instruction": "Spell.", "metric": "exact match"}
    (tasks / "spell" / "META.json").write_text(json.dumps(meta))
    path = tasks / "spell" / "en" / "test.jsonl"
    file = read_task_file(tasks, "spell", "en")
    model, tokenizer = trained
    sets = {"original": factors(0.1), "other": factors(0.12)}
    plain = run_task(model, tokenizer, encode_task(file, tokenizer), sets, "original", texts=True)
    written, exact = plain["original"].answers, plain["original"].exact
    assert written is not None
    wrong = next(i for i, x in enumerate(exact) if not x and written[i])
    rows = [json.loads(x) for x in path.read_text().splitlines()]
    rows[wrong]["references"] = [written[wrong]]
    path.write_text("".join(json.dumps(x) + "\n" for x in rows))
    again = encode_task(read_task_file(tasks, "spell", "en"), tokenizer)
    scores = run_task(model, tokenizer, again, sets, "original")["original"]
    wanted = exact.copy()
    wanted[wrong] = 1
    np.testing.assert_array_equal(scores.numbers["exact match"][:, 0], wanted)
    np.testing.assert_array_equal(scores.exact, exact)  # of the output alone
    # Nobody knows without what is written.
    assert run_task(model, tokenizer, again, sets, "original", False)["original"].numbers == {}
