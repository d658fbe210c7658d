"""Seeing with the base model which modules of an adapter matter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from hydraopt import open_bundle, read_adapters
from hydraopt.adapters import Adapter
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model import AnswerJudge, JsonCache, encode_row, load_model, prompt_text
from hydraopt.model.judge import self_written, sensitivities
from hydraopt.model.texts import RowPrompt, encode_prompt
from tests.basemodel.cases import PATHS, factors_of
from tests.harm.cases import adapters_at, measured, rows, run, spelling
from tests.marks import slow
from tests.raising import check_refused, raises
from tests.small_model import make_tokenizer

PROMPTS = spelling(10)


@pytest.fixture
def pair(tmp_path: Path) -> list[Adapter]:
    return adapters_at(tmp_path, 0.1, en=0, fr=1)


def test_every_module_is_seen_and_prompts_change_what_is_seen(base, pair) -> None:
    alone = AnswerJudge(str(base), pair, {}).sensitivities()
    asked = AnswerJudge(str(base), pair, {"fr": PROMPTS}).sensitivities()
    assert {name: {*mine} for name, mine in alone.items()} == {"en": {*PATHS}, "fr": {*PATHS}}
    assert all(value > 0 for mine in alone.values() for value in mine.values())
    assert asked["en"] == alone["en"]
    assert asked["fr"] != alone["fr"]
    # The same seed, the same texts.
    again = AnswerJudge(str(base), pair, {}, memory=JsonCache(None))
    assert again.sensitivities() == alone


def test_the_random_numbers_of_the_caller_stay(base, pair) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    AnswerJudge(str(base), pair, {}, memory=JsonCache(None)).sensitivities()
    assert torch.equal(torch.rand(3), wanted)


def test_what_was_seen_counts_by_its_root(base, pair) -> None:
    adapter, _ = pair
    factors = {path: module.factors() for path, module in adapter.modules.items()}
    model, tokenizer = load_model(base)
    seed = 3 + int(adapter.content_hash()[:12], 16)
    texts = self_written(model, tokenizer, factors, DEFAULT_HARM.sensitivity_texts, seed)
    whole = sensitivities(model, texts, factors)
    found = AnswerJudge(str(base), [adapter], {}, seed=3).sensitivities()["en"]
    assert {path: value**2 for path, value in found.items()} == pytest.approx(whole)


def test_prompts_of_an_unknown_task_are_refused(base, pair) -> None:
    with raises(UsageError, got="de", expected="en, fr"):
        AnswerJudge(str(base), pair, {"de": ["x"]})


def test_no_prompts_are_refused(base, pair) -> None:
    with raises(UsageError, adapter="fr"):
        AnswerJudge(str(base), pair, {"fr": []})


def test_a_base_without_these_modules_is_refused(base, make_adapter, tmp_path) -> None:
    folder = make_adapter(tmp_path / "x", {"h.0.q": (np.ones((8, 2)), np.ones((2, 8)))})
    with raises(AlignmentError, file="base", got="no such module", expected="(8, 8)"):
        AnswerJudge(str(base), read_adapters([folder]), {}).sensitivities()


@pytest.mark.parametrize("more", [slow([]), ["--no-refit"]])  # a refit takes seconds
def test_the_command_line_sees(base, pair, tmp_path: Path, more: list[str]) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"Spell. {i} =>\n" for i in range(32)))
    out = tmp_path / "out.hydra.safetensors"
    merge = "merge", tmp_path / "en", tmp_path / "fr", "--size", "45%", "-o", out, "--json"
    seen = run(*merge, "--base", base, "--prompts", f"fr={prompts}", *more)
    assert seen.exit_code == 0, seen.output
    assert json.loads(seen.stdout)["size"] == out.stat().st_size
    recipe = open_bundle(out).recipe
    assert recipe["sensitivity"] == 2
    assert recipe["judged"] == 1
    (told,) = [task.harm for task in open_bundle(out).manifest.tasks if task.name == "fr"]
    assert told is not None
    assert told.answers == 32  # a refit trains on prompts that the base model wrote
    assert told.held_out
    assert not more or "refit" not in recipe
    for wrong, facts in (
        (["--prompts", f"fr={prompts}"], {"names": "--prompts"}),
        (["--base", base, "--prompts", "fr"], {"file": "fr"}),
        (["--base", base, "--prompts", "fr="], {"names": "--prompts"}),
        (["--base", base, "--prompts", prompts], {"file": "p.txt"}),
        (["--harm", "1%"], {"names": "--base"}),
        (["--refit"], {"names": "--base"}),
        (["--no-refit"], {"names": "--base"}),
        (["--base", base, "--prompts", f"fr={tmp_path / 'no'}"], {"file": "no"}),
        (["--base", base, *["--prompts", f"fr={prompts}"] * 2], {"names": "--prompts"}),
        (["--base", tmp_path / "no"], {"got": "no folder of that name"}),
    ):
        before = out.read_bytes()
        refused = run(*merge, *wrong)
        assert refused.exit_code != 0
        check_refused(refused, **facts)
        assert out.read_bytes() == before


def test_a_beginning_that_is_there_is_not_put_there_again(base, pair) -> None:
    for text in (RowPrompt("Spell."), "<s>Spell.", RowPrompt("<s>Spell.")):
        judge = AnswerJudge(str(base), pair, {"en": [text]})
        (answer,) = judge.answers("en")
        assert answer.prompt[0] == 1
        assert answer.prompt.count(1) == 1


@pytest.mark.parametrize("around", ["$A", "<s> $A", "<s> $A </s>", "<s> <pad> $A"])
@pytest.mark.parametrize("text", ["Spell.", "<s>Spell.", "<pad> a"])
def test_a_text_begins_as_the_tokenizer_begins_it(around: str, text: str) -> None:
    """Nothing ends it, for the answer goes on; the prompt of a row begins with BOS anyway."""
    tokenizer = make_tokenizer()
    ids = tokenizer(text)["input_ids"]
    special = [("<pad>", 0), ("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(around, None, special)
    start = [dict(special)[x] for x in around.split("$")[0].split() if ids[0] != 1]
    assert list(encode_prompt(tokenizer, text).prompt) == [*start, *ids]
    row = encode_row(tokenizer, "Spell.", text, "").prompt
    assert encode_prompt(tokenizer, prompt_text("Spell.", text)).prompt == row
    assert row[0] == 1


# --- what becomes of prompts before the base model reads them; ad --------------------------------


def saved(trained, folder: Path, *missing: str) -> str:
    """A base whose tokenizer lacks these tokens."""
    model, tokenizer = trained[0], make_tokenizer()
    for name in missing:
        setattr(tokenizer, name, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- prompts that are there twice -----------------------------------------------------------------


def test_equal_prompts_count_once_and_the_first_stays(judge_of) -> None:
    texts = [prompt_text("Spell.", str(i)) for i in (3, 1, 3, 2, 1, 3)]
    judge = judge_of({"fr": [*texts, "<s>" + texts[1]]})
    asked = [answer.prompt for answer in judge.answers("fr")]
    once = judge_of({"fr": [texts[0], texts[1], texts[3]]})
    assert asked == [answer.prompt for answer in once.answers("fr")]
    assert len(set(asked)) == 3
    told = measured(judge, "fr", factors_of(1, 0.1))
    assert told.harm.answers == 3
    assert told == measured(once, "fr", factors_of(1, 0.1))


def test_a_prompt_that_the_base_does_not_read_names_its_task_and_number(judge_of) -> None:
    with raises(UsageError, adapter="fr", what="prompt 25 ", got="66 tokens"):
        judge_of({"fr": [*rows(range(24)), "x" * 66]}).answers("fr")


def test_equal_prompts_take_no_places_of_others(judge_of, questions) -> None:
    """Neither among those that judge nor among the lessons, and none is in both."""
    settings = HarmSettings(prompts_if_refit=4, refit_prompts=10)
    texts = [text for text in spelling(20) for _ in range(2)]
    judge = judge_of({"fr": texts}, refits=True, settings=settings)
    both = judge.answers("fr"), judge.training_answers("fr")
    asked, lessons = ([x.prompt for x in answers] for answers in both)
    assert (len(asked), len(lessons)) == (4, 6)
    assert len({*asked, *lessons}) == 10


# --- prompts that cannot be read ------------------------------------------------------------------


# --- adapters without prompts ---------------------------------------------------------------------


def test_without_a_token_to_begin_with_prompts_are_asked_for(trained, tmp_path) -> None:
    base = saved(trained, tmp_path / "base", "bos_token", "eos_token")
    adapters = adapters_at(tmp_path, fr=0)
    with raises(UsageError, adapter="fr"):
        AnswerJudge(base, adapters, {}).sensitivities()
    assert AnswerJudge(base, adapters, {"fr": ["a", "b"]}).sensitivities()["fr"].keys() == {*PATHS}
