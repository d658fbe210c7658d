"""Scores of sets of factors on one small model: shortcuts that are exact, and agreement."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hydraopt.errors import AlignmentError, UsageError
from hydraopt.evaluate.scores import encode_task, run_task
from hydraopt.evaluate.tasks import METRICS, TaskExample, named_task, read_task_file
from hydraopt.files import Url
from hydraopt.model import attached, batches_by_tokens, encode_row, generate, place
from tests.marks import slow
from tests.raising import raises

PATH = "model.layers.0.self_attn.q_proj"


def factors(scale: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    b, a = rng.standard_normal((32, 4)), rng.standard_normal((4, 32))
    return {PATH: ((scale * b).astype(np.float32), a.astype(np.float32))}


@pytest.fixture
def rows(trained, tasks):
    return encode_task(read_task_file(tasks, "spell", "en"), trained[1])


def test_teacher_forcing_tells_what_greedy_decoding_writes(trained, rows) -> None:
    model, tokenizer = trained
    for scale in (0.0, 0.05, 0.1):
        scores = run_task(model, tokenizer, rows, {"x": factors(scale)})["x"]
        assert scores.answers is not None
        written = [a == r.output for a, r in zip(scores.answers, rows.rows, strict=True)]
        assert written == scores.exact.astype(bool).tolist()
        if scale == 0:
            assert 0 < sum(written) < len(written)  # else this test shows nothing


def test_an_answer_is_what_the_set_would_write_without_the_reference(trained, rows) -> None:
    model, tokenizer = trained
    sets = {str(x): factors(x) for x in (0.05, 0.08, 0.12, 0.2)} | {"original": factors(0.1)}
    alone = {
        name: run_task(model, tokenizer, rows, {name: pairs})[name].answers
        for name, pairs in sets.items()
    }
    together = run_task(model, tokenizer, rows, sets, reference="original")
    assert {name: scores.answers for name, scores in together.items()} == alone
    same = [a == b for n in sets for a, b in zip(alone[n], alone["original"], strict=True)]
    assert 20 < sum(same) < len(same)  # else this test shows nothing


# --- answers that change --------------------------------------------------------------------------


@pytest.fixture
def exact_only(trained, tasks):
    """The same rows with a metric for which nothing needs to be written."""
    meta = {"instruction": "Spell.", "metric": "exact match"}
    (tasks / "spell" / "META.json").write_text(json.dumps(meta))
    return encode_task(read_task_file(tasks, "spell", "en"), trained[1])


def written(model, tokenizer, rows, pairs) -> list[tuple[int, ...]]:
    """Plain greedy decoding, one row at a time."""
    most = max(len(item.target) for item in rows.items) * 3 // 2 + 8
    placed = place(model, pairs)
    return [generate(model, tokenizer, [item], placed, most)[0] for item in rows.items]


@pytest.mark.parametrize("metrics", ["exact match", slow("exact match / chrF")])
def test_changed_answers_are_those_that_plain_generation_writes_otherwise(
    trained, tasks, metrics
) -> None:
    meta = {"instruction": "Spell.", "metric": metrics}
    (tasks / "spell" / "META.json").write_text(json.dumps(meta))
    rows = encode_task(read_task_file(tasks, "spell", "en"), trained[1])
    sets = {str(x): factors(x) for x in (0.05, 0.08, 0.12, 0.2)} | {"original": factors(0.1)}
    alone = {name: written(*trained, rows, pairs) for name, pairs in sets.items()}
    scores = run_task(*trained, rows, {"base": {}, **sets}, "original")
    assert scores["base"].changed is None
    assert scores["original"].changed is None
    right = scores["original"].exact
    assert 0 < right.sum() < len(right)  # rows of both passes
    seen = []
    for name in sets.keys() - {"original"}:
        wanted = [a != b for a, b in zip(alone[name], alone["original"], strict=True)]
        assert scores[name].changed.astype(bool).tolist() == wanted
        seen += wanted
    assert 3 < sum(seen) < len(seen) - 3  # else this test shows nothing


def logs_of(model, pairs, item, target):
    """Log probabilities of next tokens at each token of a target, by a plain pass."""
    with attached(model, place(model, pairs)):
        logits = model(torch.tensor([item.prompt + target])).logits[0]
    start = len(item.prompt) - 1
    return logits[start : start + len(target)].double().log_softmax(-1)


@pytest.mark.parametrize("near", [False, True])
def test_loss_and_divergences_are_the_definitions(trained, exact_only, near) -> None:
    """On the expected answers, and on those that the original writes."""
    model, tokenizer = trained
    other = {path: (1.0001 * b, a) for path, (b, a) in factors(0.1).items()}
    sets = {"original": factors(0.1), "other": other if near else factors(0.3, 1)}
    found = run_task(model, tokenizer, exact_only, sets, reference="original")["other"]
    answers = written(model, tokenizer, exact_only, sets["original"])
    assert 0 < sum(x.target == y for x, y in zip(exact_only.items, answers, strict=True)) < 10
    close = 0.05 if near else 1e-3
    for i, item in enumerate(exact_only.items):
        for target, kl in ((item.target, found.divergence), (answers[i], found.answer_divergence)):
            old, new = (logs_of(model, pairs, item, target) for pairs in sets.values())
            wanted = F.kl_div(new, old, log_target=True, reduction="sum")
            assert kl[i] == pytest.approx(float(wanted), rel=close)
            assert 0 < wanted < 1e-6 or not near
        loss = F.nll_loss(
            logs_of(model, sets["other"], item, item.target),
            torch.tensor(item.target),
            reduction="sum",
        )
        assert found.loss[i] == pytest.approx(float(loss), rel=1e-4, abs=1e-5)
        assert found.tokens[i] == len(item.target)
    assert found.changed.sum() == 0 or not near


def test_nothing_is_told_of_changes_that_nobody_asked_for(trained, rows, exact_only) -> None:
    sets = {"original": factors(0.1), "other": factors(0.3, 1)}
    for its in (rows, exact_only):
        assert run_task(*trained, its, sets, "original", write=False)["other"].changed is None
        assert run_task(*trained, its, sets, None)["other"].changed is None
    only = run_task(*trained, exact_only, sets, "original")
    assert only["other"].changed is not None
    assert (only["other"].answers, only["original"].answers) == (None, None)


def test_an_answer_ends_with_any_end_of_the_model(trained, rows, monkeypatch) -> None:
    model, tokenizer = trained
    sets = {"original": factors(0.1), "far": factors(0.2)}
    usual = run_task(model, tokenizer, rows, sets, reference="original")
    end = tokenizer.convert_tokens_to_ids("e")
    monkeypatch.setattr(model.generation_config, "eos_token_id", [2, end])
    found = run_task(model, tokenizer, rows, sets, reference="original")
    # Expected answers hold no end; of these some hold the letter.
    free = [i for i, row in enumerate(rows.rows) if "e" not in row.output]
    for name, one in found.items():
        cut = [text[: text.find("e") + 1] or text for text in usual[name].answers]
        assert [one.answers[i] for i in free] == [cut[i] for i in free]
    assert any(found["far"].answers[i] != usual["far"].answers[i] for i in free)


def test_agreement_with_the_reference(trained, rows) -> None:
    sets = {"base": {}, "same": factors(0.1), "original": factors(0.1), "far": factors(0.5, 1)}
    found = run_task(*trained, rows, sets, reference="original", write=False)
    assert list(found) == list(sets)
    assert found["same"].agreement_percent == found["original"].agreement_percent == 100
    assert found["same"].divergence_per_token == pytest.approx(0, abs=1e-9)
    assert found["far"].divergence_per_token > 0.01
    assert found["far"].agreement_percent < 100
    change = found["same"].against(found["original"], METRICS["exact match"])
    assert (change.difference, change.low, change.high) == (0, 0, 0)


def test_an_adapted_output_layer_counts(trained, rows) -> None:
    model, tokenizer = trained
    rng = np.random.default_rng(0)
    wide = (
        rng.standard_normal((model.config.vocab_size, 2)).astype(np.float32),
        factors(1)[PATH][1][:2],
    )
    sets = {"base": {}, "head": {"lm_head": wide}}
    found = run_task(model, tokenizer, rows, sets, reference="head", write=False)
    assert found["head"].divergence_per_token == 0
    assert found["base"].divergence_per_token > 0.01
    item = rows.items[0]
    logs = logs_of(model, sets["head"], item, item.target)
    alone = F.nll_loss(logs, torch.tensor(item.target), reduction="sum")
    assert found["head"].loss[0] == pytest.approx(float(alone), rel=1e-4)


def test_hooks_are_taken_off_again(trained) -> None:
    model, _ = trained
    ids = torch.tensor([[1, 5, 6]])
    before = model(ids).logits
    with attached(model, place(model, factors(1.0))):
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("pairs", "facts"),
    [
        ({"model.layers.7.q": factors(1)[PATH]}, {"got": "no such module", "expected": "(32, 32)"}),
        ({PATH: (np.zeros((9, 4)), np.zeros((4, 32)))}, {"got": "(32, 32)", "expected": "(9, 32)"}),
    ],
)
def test_factors_of_another_base_are_refused(trained, pairs, facts) -> None:
    model, _ = trained
    with raises(AlignmentError, **facts):
        place(model, pairs)


def test_batches_hold_every_row_once() -> None:
    lengths = [7, 3, 9, 1, 4, 4, 12]
    chunks = list(batches_by_tokens(lengths, 12))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    assert all(len(c) * max(lengths[i] for i in c) <= 12 for c in chunks)


def test_a_tokenizer_without_bos_starts_with_the_prompt(trained) -> None:
    tokenizer = trained[1]
    with_bos = encode_row(tokenizer, "a", "b", "c")
    token, tokenizer.bos_token = tokenizer.bos_token, None
    try:
        assert encode_row(tokenizer, "a", "b", "c").prompt == with_bos.prompt[1:]
    finally:
        tokenizer.bos_token = token


# --- task files -----------------------------------------------------------------------------------


def test_long_rows_are_left_out_and_counted(trained, tasks) -> None:
    task = read_task_file(tasks, "spell", "en")
    some = encode_task(task, trained[1], most_rows=5, most_tokens=17)
    assert len(some.rows) + some.left_out == 5
    assert some.left_out > 0
    with raises(UsageError, got="--max-tokens"):
        encode_task(task, trained[1], most_tokens=3)


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("{", {}),
        ('{"input": "a"}', {"got": '{"input": "a"}'}),
        ('["input", "output"]', {"got": '["input", "output"]'}),
        ("[" * 100_000, {}),
        (r'{"input": "\ud800", "output": "a"}', {"got": "utf-8"}),
    ],
)
def test_a_broken_row_is_named(tasks, line, facts) -> None:
    with (tasks / "spell" / "en" / "test.jsonl").open("a") as file:
        file.write(line + "\n")
    with raises(UsageError, **facts):
        read_task_file(tasks, "spell", "en")


def test_rows_are_text_and_may_hold_other_ends_of_lines(tasks) -> None:
    path = tasks / "spell" / "en" / "test.jsonl"
    path.write_text('{"input": "a\u2028b", "output": "\x85"}\r\n', encoding="utf-8", newline="")
    (row,) = read_task_file(tasks, "spell", "en").rows
    assert (row.input, row.output) == ("a\u2028b", "\x85")
    path.write_bytes(b'{"input": "\xe9", "output": "a"}')
    with raises(UsageError, expected="UTF-8"):
        read_task_file(tasks, "spell", "en")


def test_missing_tasks_are_named(tasks) -> None:
    with pytest.raises(UsageError):
        read_task_file(tasks, "sing", "en")
    with raises(UsageError, file="test.jsonl", got="no such file", expected="en"):
        read_task_file(tasks, "spell", "de")
    assert named_task("spell-en", None, tasks)[:2] == ("spell", "en")
    assert named_task("spell-en", Url("s3://bucket/any"), tasks)[:2] == ("spell", "en")
    with pytest.raises(UsageError):
        named_task("x", None, tasks)
    for broken in ("[" * 200_000, "{", "[]", '{"task": 3}'):
        (tasks / "score.json").write_text(broken)
        assert named_task("spell-en", tasks, tasks)[:2] == ("spell", "en")


# --- rows with several right answers -------------------------------------------------------------


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
