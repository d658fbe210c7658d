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
from hydraopt.basemodel.encoding import RowPrompt, encode_prompt, encode_row, prompt_text
from hydraopt.basemodel.memory import JsonCache
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.sensitivity import looks, self_written, sensitivities
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.harm import prompts as prompts_module
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.prompts import read_prompts
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings
from tests.basemodel.cases import PATHS
from tests.harm.cases import adapters_at, run, spelling
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
    whole = sensitivities(looks(model, texts, factors), factors)
    found = AnswerJudge(str(base), [adapter], {}, seed=3).sensitivities()["en"]
    assert {path: value**2 for path, value in found.items()} == pytest.approx(whole)


def test_prompts_of_an_unknown_task_are_refused(base, pair) -> None:
    with raises(UsageError, got="de", expected="en, fr"):
        AnswerJudge(str(base), pair, {"de": ["x"]})


def test_no_prompts_are_refused(base, pair) -> None:
    with raises(UsageError, adapter="fr"):
        AnswerJudge(str(base), pair, {"fr": []})


def test_prompts_of_what_is_more_than_factors_are_refused(base, make_adapter, tmp_path) -> None:
    modules = {PATHS[0]: (np.ones((32, 2)), np.ones((2, 32)))}
    extras = {"base_model.model.lm_head.weight": np.ones((259, 32), np.float32)}
    folder = make_adapter(tmp_path / "x", modules, extras=extras)
    adapters = read_adapters([folder])
    with raises(UsageError, adapter="x", got="base_model.model.lm_head.weight"):
        AnswerJudge(str(base), adapters, {"x": PROMPTS})
    assert AnswerJudge(str(base), adapters, {}).sensitivities()["x"]


def test_a_base_without_these_modules_is_refused(base, make_adapter, tmp_path) -> None:
    folder = make_adapter(tmp_path / "x", {"h.0.q": (np.ones((8, 2)), np.ones((2, 8)))})
    with raises(AlignmentError, file="base", got="no such module", expected="(8, 8)"):
        AnswerJudge(str(base), read_adapters([folder]), {}).sensitivities()


def test_more_prompts_than_are_of_use_are_not_kept(tmp_path: Path, monkeypatch) -> None:
    """But they are looked at: what is wrong far down is told as well."""
    monkeypatch.setattr(prompts_module, "DEFAULT_HARM", HarmSettings(refit_prompts=3))
    file = tmp_path / "many.jsonl"
    lines = [json.dumps(x) for x in ("a", "b", "a", "c", "a", "d", "e")]
    file.write_text("\n".join(lines))
    assert read_prompts(file) == ["a", "b", "c"]
    file.write_text("\n".join([*lines, "{"]))
    with raises(UsageError, got="{"):
        read_prompts(file)


def test_prompt_files(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text('one\n\n"two"\n')
    lines.write_text('"one\\nmore"\n{"prompt": "two"}\n')
    assert read_prompts(plain) == ["one", '"two"']
    assert read_prompts(lines) == ["one\nmore", "two"]


@pytest.mark.parametrize("line", ["{", "3", '{"text": "x"}', '""', '{"prompt": 3}'])
def test_wrong_prompt_files_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('"fine"\n' + line)
    with pytest.raises(UsageError):
        read_prompts(file)


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, facts in (("empty", {"file": "empty"}), ("none", {}), ("bytes", {})):
        with raises(UsageError, **facts):
            read_prompts(tmp_path / name)


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


def test_answers_are_asked_for_once(base, pair, questions) -> None:
    for _ in range(2):
        judge = AnswerJudge(str(base), pair, {"fr": PROMPTS})
        judge.sensitivities()
        judge.answers("fr")
    assert questions == [len(PROMPTS)]
