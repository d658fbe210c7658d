"""Rows that are longer than the base model's context, or have no token: left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from hydraopt.errors import UsageError
from hydraopt.evaluate import EvaluationRequest, evaluate, read_compared
from hydraopt.evaluate.classify import encode_texts
from hydraopt.evaluate.scores import encode_task, run_task
from hydraopt.evaluate.tasks import read_task_file
from hydraopt.model import load_model, positions_of
from tests.conftest import write_adapter
from tests.evaluate.test_eval_verb import run
from tests.raising import raises
from tests.small_model import INSTRUCTION, make_tokenizer

OPT_Q = "model.decoder.layers.0.self_attn.q_proj"
BERT_Q = "bert.encoder.layer.0.attention.self.query"
SMALL: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
PLACES = 40


def opt(places: int = PLACES) -> hf.OPTForCausalLM:
    torch.manual_seed(0)
    wide = {"ffn_dim": 32, "word_embed_proj_dim": 32, "vocab_size": len(make_tokenizer())}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return hf.OPTForCausalLM(
        hf.OPTConfig(**SMALL, **wide, **ids, max_position_embeddings=places, dropout=0.0)
    ).eval()


def bert() -> hf.BertForSequenceClassification:
    torch.manual_seed(0)
    size = {"vocab_size": len(make_tokenizer()), "intermediate_size": 32}
    return hf.BertForSequenceClassification(
        hf.BertConfig(**SMALL, **size, max_position_embeddings=PLACES, num_labels=2)
    ).eval()


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def adapter(folder: Path, path: str, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    pairs = {path: (0.1 * rng.standard_normal((32, 4)), rng.standard_normal((4, 32)))}
    return write_adapter(folder, pairs, **more)


def task(folder: Path, rows: list[tuple[str, str]], **meta: Any) -> Path:
    (folder / "mood" / "en").mkdir(parents=True)
    said = {"instruction": INSTRUCTION, "metric": "exact match", **meta}
    (folder / "mood" / "META.json").write_text(json.dumps(said))
    lines = [json.dumps({"input": x, "output": y}) + "\n" for x, y in rows]
    (folder / "mood" / "en" / "test.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize(
    ("made", "positions"),
    [
        (opt, PLACES),
        (bert, PLACES),
        (
            lambda: hf.RobertaModel(
                hf.RobertaConfig(vocab_size=50, **SMALL, max_position_embeddings=34)
            ),
            32,
        ),
    ],
)
def test_the_context_of_a_model(made: Callable[[], Any], positions: int) -> None:
    model = made()
    assert positions_of(model) == positions
    body = model.base_model.eval()
    body(input_ids=torch.full((1, positions), 5))
    with pytest.raises((IndexError, RuntimeError)):
        body(input_ids=torch.full((1, positions + 1), 5))


def test_rows_without_a_place_are_left_out_and_answers_end_with_the_context(tmp_path) -> None:
    model, tokenizer = opt(), make_tokenizer()
    tasks = task(tmp_path / "t", [("x" * n, "yes") for n in (1, 9, 24, 25, 60)])
    file = read_task_file(tasks, "mood", "en")
    assert [len(x) for x in encode_task(file, tokenizer).items][2:4] == [PLACES, PLACES + 1]
    rows = encode_task(file, tokenizer, None, None, positions_of(model))
    why = f"longer than the base's context of {PLACES} tokens"
    assert (len(rows.rows), rows.left_out, rows.reasons) == (3, 2, {why: 2})
    texts = run_task(model, tokenizer, rows, {"base": {}}, write=True, texts=True)["base"].answers
    alone = run_task(opt(200), tokenizer, rows, {"base": {}}, write=True, texts=True)
    assert texts is not None
    assert alone["base"].answers is not None  # a model with places for all writes on
    assert len(texts[2]) <= len(alone["base"].answers[2])
    both = encode_task(file, tokenizer, None, 20, positions_of(model))
    assert both.reasons == {"longer than --max-tokens": 4}
    with pytest.raises(UsageError):
        encode_task(file, tokenizer, None, None, 5)


def test_a_result_tells_of_rows_beyond_the_context(tmp_path) -> None:
    tasks = task(tmp_path / "t", [("x" * n, "yes") for n in (1, 9, 22, 60)])
    command = ("eval", adapter(tmp_path / "mood-en", OPT_Q), "--tasks", tasks)
    said = run(*command, "--base", saved(tmp_path / "base", opt()), "--json")
    assert said.exit_code == 0, said.output
    result = json.loads(said.output)
    why = f"longer than the base's context of {PLACES} tokens"
    (entry,) = result["tasks"]
    assert (entry["rows"], entry["left_out"], entry["left_out_why"]) == (3, 1, {why: 1})
    (note,) = result["notes"]
    assert note["code"] == "rows_left_out"
    shown = run(*command, "--base", tmp_path / "base").output
    assert f"note: {note['text']}" in " ".join(shown.split())


def test_texts_of_a_classifier_have_a_place_and_a_token(tmp_path) -> None:
    texts = ["x", "", "x" * PLACES, "x" * (PLACES + 1), "yy", "y" * 5]
    rows = [(text, ("bad", "good")[i % 2]) for i, text in enumerate(texts)]
    tasks = task(tmp_path / "t", rows, metric="accuracy")
    rng = np.random.default_rng(0)
    head = {
        "base_model.model.classifier.weight": rng.standard_normal((2, 32)).astype(np.float32),
        "base_model.model.classifier.bias": np.zeros(2, np.float32),
    }
    folder = adapter(
        tmp_path / "mood-en", BERT_Q, extras=head, task_type="SEQ_CLS",
        modules_to_save=["classifier"],
    )  # fmt: skip
    base = saved(tmp_path / "base", bert())
    (entry,) = evaluate(read_compared([str(folder)]), EvaluationRequest(str(base), tasks)).tasks
    why = f"longer than the base's context of {PLACES} tokens"
    assert (entry.rows, entry.left_out) == (4, 2)
    assert entry.left_out_why == {why: 1, "without a token": 1}


def test_a_task_of_empty_texts_says_so(tmp_path) -> None:
    tasks = task(tmp_path / "t", [("", "bad"), ("", "good")], metric="accuracy")
    base = saved(tmp_path / "base", bert())
    file = read_task_file(tasks, "mood", "en")
    with raises(UsageError, got="2 without a token"):
        encode_texts(file, load_model(base, labels=2)[1], 2)
