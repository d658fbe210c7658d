"""Make a base model and two bundles that are small enough to be served at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.hostile.samples import tensors, write_peft
from hydraopt import merge

__all__ = ["write_tiny"]

WIDTH, LAYERS = 32, 2


def write_tiny(folder: Path, tasks: Sequence[str]) -> tuple[Path, list[Path]]:
    """Write (base, bundles) of random numbers below ``folder``.

    The numbers are large enough that every task of either bundle says something else. Tokens are
    bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.3)
    base = folder / "base"
    model.save_pretrained(base)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(base)
    bundles = []
    for which in range(2):
        adapters = [
            write_peft(
                folder / f"{which}" / task,
                tensors(10 * which + i, m=WIDTH, n=WIDTH, layers=LAYERS),
            )
            for i, task in enumerate(tasks)
        ]
        bundles.append(folder / f"{which}.hydra.safetensors")
        merge(adapters, bundles[-1], size="60%", workers=1)
    return base, bundles
