"""What becomes of prompts before the base model reads them; adapters that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from hydraopt import read_adapters
from hydraopt.basemodel.encoding import Encoded, prompt_text
from hydraopt.errors import UsageError
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.look import HarmSettings
from tests.basemodel.cases import PATHS, factors_of
from tests.conftest import write_adapter
from tests.harm.cases import adapters_at, measured, spelling
from tests.raising import raises
from tests.small_model import make_tokenizer


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


@pytest.mark.parametrize("tokens", [(), (3, 1 << 20)], ids=["none", "unknown"])
def test_tokens_that_the_base_does_not_read_name_their_task_and_number(
    judge_of, tokens: tuple[int, ...]
) -> None:
    prompts = [*(Encoded((3, i), ()) for i in range(4, 70)), Encoded(tokens, ())]
    with pytest.raises(UsageError, match="prompt 67 ") as error:
        judge_of({"fr": prompts}).answers("fr")
    assert error.value.adapter == "fr"


def test_equal_prompts_take_no_places_of_others(judge_of, questions) -> None:
    """Neither among those that judge nor among the lessons, and none is in both."""
    settings = HarmSettings(prompts_if_refit=4, refit_prompts=10)
    texts = [text for text in spelling(20) for _ in range(2)]
    judge = judge_of({"fr": texts}, refits=True, settings=settings)
    both = judge.answers("fr"), judge.training_answers("fr")
    asked, lessons = ([x.prompt for x in answers] for answers in both)
    assert (len(asked), len(lessons)) == (4, 6)
    assert len({*asked, *lessons}) == 10


def test_few_prompts_again_and_again_do_not_stop_a_refit(judge_of) -> None:
    assert judge_of({"fr": 50 * spelling(4)}, refits=True).refit("fr", dict) == {}


# --- prompts that cannot be read ------------------------------------------------------------------


def test_a_prompt_of_no_token_is_named(trained, tmp_path) -> None:
    base, adapters = saved(trained, tmp_path / "base", "bos_token"), adapters_at(tmp_path, fr=0)
    with raises(UsageError, adapter="fr", got="0 tokens"):
        AnswerJudge(base, adapters, {"fr": ["a", "", "b"]}).answers("fr")


def test_a_prompt_beyond_the_positions_is_named(tmp_path) -> None:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=259, hidden_size=32, num_attention_heads=4, ffn_dim=48, num_hidden_layers=1,
        max_position_embeddings=40, word_embed_proj_dim=32,
    )  # fmt: skip
    base = saved((OPTForCausalLM(config),), tmp_path / "base")
    path = "model.decoder.layers.0.fc1"
    rng = np.random.default_rng(0)
    modules = {path: (rng.standard_normal((48, 2)), rng.standard_normal((2, 32)))}
    adapters = read_adapters([write_adapter(tmp_path / "fr", modules)])
    with raises(UsageError, adapter="fr", what="prompt 2", got="50 tokens", expected="1 to 40"):
        AnswerJudge(base, adapters, {"fr": ["a", "x" * 50]}).answers("fr")
    judge = AnswerJudge(base, adapters, {"fr": ["a", "x" * 30]})
    told = measured(judge, "fr", {path: (np.zeros((48, 1)), np.zeros((1, 32)))})
    assert told.harm.answers == 2
    assert max(len(answer) for answer in judge.answers("fr")) == 41
    assert judge.sensitivities()["fr"][path] > 0


def test_a_prompt_beyond_the_stated_context_is_named(trained, tmp_path) -> None:
    base, adapters = saved(trained, tmp_path / "base"), adapters_at(tmp_path, fr=0)
    most = trained[0].config.max_position_embeddings
    with raises(UsageError, adapter="fr", what="prompt 2", expected=f"1 to {most}"):
        AnswerJudge(base, adapters, {"fr": ["a", "x " * most * 2]}).answers("fr")


# --- adapters without prompts ---------------------------------------------------------------------


def test_without_a_token_to_begin_with_prompts_are_asked_for(trained, tmp_path) -> None:
    base = saved(trained, tmp_path / "base", "bos_token", "eos_token")
    adapters = adapters_at(tmp_path, fr=0)
    with raises(UsageError, adapter="fr"):
        AnswerJudge(base, adapters, {}).sensitivities()
    assert AnswerJudge(base, adapters, {"fr": ["a", "b"]}).sensitivities()["fr"].keys() == {*PATHS}


@pytest.mark.slow
def test_what_is_seen_of_an_adapter_depends_on_no_other(judge_of) -> None:
    alone = judge_of({}, seeds={"it": 2}).sensitivities()
    among = judge_of({}, seeds={"de": 0, "fr": 1, "it": 2}).sensitivities()
    assert among["it"] == alone["it"]
    assert among["de"] != among["it"]
