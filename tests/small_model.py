"""A language model small enough to learn a few rows by heart in seconds, and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hydraopt.model import encode_row, hidden_states, logits_of
from hydraopt.model.texts import collate

LEARNED = Path(__file__).with_name("small_model.safetensors")
"""What a model has learned of ROWS, made with ATEN_CPU_CAPABILITY=avx2 by
python -c "from tests.small_model import learn; learn()"."""
INSTRUCTION = "Spell."
ROWS = [{"input": str(i), "output": word} for i, word in enumerate(
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
)]  # fmt: skip


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tiny_llama(**settings: int) -> LlamaForCausalLM:
    """A random Llama of two layers, the same each time, without a download."""
    torch.manual_seed(0)
    usual = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**usual, **settings})).eval()


@pytest.fixture(scope="module")
def sharp() -> LlamaForCausalLM:
    """A random Llama far from uniform, so that what a token sees matters."""
    made = tiny_llama()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.mul_(8 if tensor.dim() == 2 else 1)
    return made


def tiny_speaker(positions: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """(model, tokenizer) that fit each other, the model as it is at random."""
    tokenizer = make_tokenizer()
    model = tiny_llama(
        vocab_size=len(tokenizer),
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return model, tokenizer


@pytest.fixture(scope="session")
def trained() -> tuple[Any, Any]:
    """(model, tokenizer); the model has learned some of ROWS and not the others. It is read from a
    file: learned anew, it would be another one on other processors, and say other things."""
    model, tokenizer = tiny_speaker(64)
    model.load_state_dict({key: x.float() for key, x in load_file(LEARNED).items()})
    model.requires_grad_(False)
    return model.eval(), tokenizer


def learn() -> None:
    """Write LEARNED anew."""
    model, tokenizer = tiny_speaker(64)
    items = [encode_row(tokenizer, INSTRUCTION, r["input"], r["output"]) for r in ROWS]
    batch = collate(items)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        logits = logits_of(model, hidden_states(model, batch), {})
        exact = batch.row[logits.argmax(-1) != batch.labels].unique().numel()
        if 0 < exact <= 6:
            break
        F.cross_entropy(logits, batch.labels).backward()
        optimiser.step()
        optimiser.zero_grad()
    state = {key: x.detach().half().contiguous() for key, x in model.state_dict().items()}
    save_file(state, LEARNED)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one task, "spell", in one language, "en"."""
    folder = tmp_path / "tasks" / "spell"
    (folder / "en").mkdir(parents=True)
    meta = {"instruction": INSTRUCTION, "metric": "exact match / chrF (on ten rows)"}
    (folder / "META.json").write_text(json.dumps(meta))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "en" / "test.jsonl").write_text(lines)
    return folder.parent
