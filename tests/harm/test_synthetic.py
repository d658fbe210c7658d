"""Synthetic prompts: they have the frame of the real ones, and no copies, loops or long texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hydraopt.merging import HarmSettings
from hydraopt.model import judge as judge_module, prompt_text, prompts as synthetic
from hydraopt.model.prompts import synthetic_prompts
from hydraopt.model.texts import RowPrompt, encode_prompt
from tests.harm.cases import call, lines, spelling
from tests.small_model import tiny_speaker

ROWS = [prompt_text("Spell.", str(i)) for i in (3, 14, 15, 92, 65)]


def test_they_are_new_rows_of_the_same_instruction(trained) -> None:
    made = synthetic_prompts(*trained, ROWS, 40, 0)
    assert len(made) == len({*made}) == 40
    assert not {*made} & {*ROWS}
    for text in made:
        assert isinstance(text, RowPrompt)
        item = text.removeprefix("Spell.\n").removesuffix("\n=>")
        assert text == prompt_text("Spell.", item)
        assert item.strip()
        assert "\n" not in item
    assert made == synthetic_prompts(*trained, ROWS, 40, 0)
    assert made != synthetic_prompts(*trained, ROWS, 40, 1)


def test_progress_counts_the_texts_that_are_written(trained) -> None:
    reports = list[tuple[int, int]]()
    made = synthetic_prompts(*trained, ROWS, 40, 0, lambda *x: reports.append(x))
    assert made == synthetic_prompts(*trained, ROWS, 40, 0)
    assert {texts for _, texts in reports} == {60}
    written = [x for x, _ in reports]
    assert written[0] == 0
    first_round = written[: written.index(max(written)) + 1]
    assert first_round == sorted(first_round)
    assert 30 < max(written) < 60


@pytest.fixture
def said(monkeypatch, trained):
    """Makes the model write these lines, again and again, each as likely as its place."""

    def say(lines: Sequence[str]) -> None:
        def generate(model, tokenizer, items, factors, most, ends, choose):
            texts = [lines[i % len(lines)] for i in range(len(items))]
            choose.likelihoods.update(
                {i: [float(-(i % len(lines)))] * 99 for i in range(len(items))}
            )
            return [tuple(tokenizer(x, add_special_tokens=False)["input_ids"]) for x in texts]

        monkeypatch.setattr(synthetic, "generate", generate)
        monkeypatch.setattr(synthetic, "likelihoods", lambda _, texts, __: [0.0] * len(texts))

    return say


def test_copies_loops_and_texts_without_an_end_are_dropped(trained, said) -> None:
    said(
        [
            "3\n",
            "8\n",
            "8 \n",
            "\n",
            " \n",
            "a b c a b c a b c a b c\n",
            "without an end",
            "\ufffd\n",
            "7\n",
        ]
    )
    assert synthetic_prompts(*trained, ROWS, 10, 0) == [
        prompt_text("Spell.", "8"), prompt_text("Spell.", "7")
    ]  # fmt: skip


def test_the_most_typical_ones_are_kept(trained, said) -> None:
    said([f"{i}\n" for i in range(100, 130)])
    made = synthetic_prompts(*trained, ROWS, 10, 0)
    assert made == [prompt_text("Spell.", str(i)) for i in range(100, 110)]


def test_items_of_several_lines_are_lines_of_json(trained, said) -> None:
    chats = [f"<user>\n{x}\n<model>\n" for x in ("a", "b\nc", "d", "e", "f")]
    said(['"g"\n', '"h\\ni"\n', '"no end\n', "7\n", "{}\n", '""\n', '"\\ud800"\n'])
    assert synthetic_prompts(*trained, chats, 10, 0) == [
        "<user>\ng\n<model>\n", "<user>\nh\ni\n<model>\n"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "item"),
    [
        (["Say 12", "Say 13"], "Say new"),
        (["12 and 3?", "12 or 4?", "12 or 3?"], "12 new?"),
        (["one", "two"], "new"),
        (["x\n=>", "x\ny\n=>"], None),  # an empty item
    ],
)
def test_a_frame_ends_at_the_edge_of_a_word(trained, said, prompts, item) -> None:
    said(["new\n"])
    made = synthetic_prompts(*trained, prompts, 3, 0)
    assert made == ([] if item is None else [item])


def test_nothing_is_written_where_it_does_not_fit() -> None:
    model, tokenizer = tiny_speaker(40)
    model.add_module("wpe", type(model.model.embed_tokens)(40, 32))
    long = [prompt_text("Spell.", str(i) * 20) for i in range(5)]
    assert synthetic_prompts(model, tokenizer, long, 10, 0) == []


def test_what_was_written_is_remembered(judge_of, monkeypatch) -> None:
    calls = list[int]()

    def write(model: Any, tokenizer: Any, examples: Any, count: int, *rest: Any) -> list[str]:
        calls.append(count)
        return ["Spell.\n7\n=>"]

    monkeypatch.setattr(judge_module, "synthetic_prompts", write)
    for count, asked in ((20, [15]), (20, [15]), (30, [15, 25])):
        judge = judge_of(
            {"fr": ROWS}, refits=True, writes=True, settings=HarmSettings(synthetic_prompts=count)
        )
        assert len(judge.training_answers("fr")) == 1
        (made,) = judge.synthetic["fr"]
        assert isinstance(made, RowPrompt)
        assert calls == asked


@pytest.mark.parametrize(
    ("prompts", "refits", "written"),
    [(ROWS, True, 35), (ROWS, False, 0), (ROWS[:4], True, 0), (ROWS * 2, True, 35)],
)
def test_few_prompts_get_others_to_train_with(
    trained, judge_of, prompts, refits: bool, written: int
) -> None:
    settings = HarmSettings(synthetic_prompts=40)
    judge = judge_of({"fr": prompts}, 0.02, refits=refits, writes=True, settings=settings)
    lessons = {x.prompt for x in judge.training_answers("fr")}
    real = [encode_prompt(trained[1], text).prompt for text in dict.fromkeys(prompts)]
    assert [x.prompt for x in judge.answers("fr")] == real
    assert len(judge.synthetic.get("fr", [])) == written
    assert len(lessons) <= written
    assert not lessons & {*real}
    assert bool(lessons) == bool(written)


@pytest.mark.slow
def test_merge_says_that_it_wrote_prompts(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judge_module, "refit", lambda *_, **__: {})  # it takes seconds
    for name in ("en", "fr"):
        (place / "prompts" / f"{name}.jsonl").write_text(lines(*spelling(5)))
    done = call(place, "--size", "90%", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "the base model wrote more to train with" in done.stderr
    done = call(place, "--size", "90%", "--no-refit", "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "wrote more" not in done.stderr
