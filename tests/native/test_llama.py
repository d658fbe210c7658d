"""A LoRA GGUF that C wrote, in llama.cpp itself: the tokens are those of the Python export and of
transformers.

The base is a GGUF made here of a random Llama of two layers. The engine is node-llama-cpp of npm,
which has llama.cpp compiled in; .ci/web installs it in tests/native/node, for Linux on x86-64.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hydraopt.basemodel.model import attached, place
from hydraopt.export import export_gguf
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs, save_base
from tests.native.conftest import Run
from tests.small_model import tiny_llama

pytestmark = pytest.mark.slow

NODE = Path(__file__).with_name("node")
PROMPTS = [[1, 40, 17, 63], [1, 5, 90], [1, 71, 33, 8, 25]]
COUNT = 12
VOCABULARY = 3 + 256  # llama.cpp wants a token of every byte


def rotated(weight: Any, heads: int) -> Any:
    """Rows as llama.cpp's rope wants them: halves of a head interleaved."""
    m, n = weight.shape
    return weight.reshape(heads, 2, m // heads // 2, n).swapaxes(1, 2).reshape(m, n)


def write_base(file: Path) -> Path:
    """The small Llama as llama.cpp reads it, in f32; its tokens are bytes."""
    model = tiny_llama(vocab_size=VOCABULARY)
    c: Any = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    writer.add_vocab_size(c.vocab_size)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{x:02X}>" for x in range(c.vocab_size - 3))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * (len(tokens) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    inner = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        path, values = key.removesuffix(".weight"), tensor.float().numpy()
        if path in fixed:
            name = fixed[path]
        else:
            _, _, layer, rest = path.split(".", 3)
            name = f"blk.{layer}.{inner[rest]}"
            if inner[rest] in heads:
                values = rotated(values, heads[inner[rest]])
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def transformers_answers(factors: Any) -> list[list[int]]:
    """Greedy tokens of transformers, and that none of them was a near thing."""
    model = tiny_llama(vocab_size=VOCABULARY)
    placed = {path: (x.B, x.A) for path, x in factors.items()}
    answers = []
    with torch.inference_mode(), attached(model, place(model, placed)):
        for prompt in PROMPTS:
            tokens = list(prompt)
            for _ in range(COUNT):
                logits = model(torch.tensor([tokens])).logits[0, -1]
                first, second = logits.topk(2).values.tolist()
                assert first - second > 1e-4 * float(logits.std()), "a tie proves nothing"
                tokens.append(int(logits.argmax()))
            answers.append(tokens[len(prompt) :])
    return answers


def node(base: Path, lora: Path | None) -> list[list[int]]:
    words = [base, COUNT, json.dumps(PROMPTS), *([lora] if lora else [])]
    done = subprocess.run(
        ["node", str(NODE / "greedy.mjs"), *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("node") is None or not (NODE / "node_modules" / "node-llama-cpp").is_dir():
        pytest.skip(f"node-llama-cpp is not installed: npm ci --omit=optional in {NODE}")
    return write_base(tmp_path_factory.mktemp("llama") / "base.gguf")


def test_the_base_alone_answers_as_in_transformers(base: Path) -> None:
    assert node(base, None) == transformers_answers({})


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_file_by_c_answers_as_that_by_python(
    base: Path, dtype: str, run: Run, tmp_path: Path
) -> None:
    strong = {
        # So that attention depends on where its rows are.
        path: (b * (8 if "self_attn" in path else 1), a)
        for path, (b, a) in pairs().items()
    }
    task = bundled(tmp_path, write_adapter(tmp_path / "numbers", strong, alpha=5))["numbers"]
    own, theirs = tmp_path / "python.gguf", tmp_path / "c.gguf"
    config = save_base(tmp_path / "base") / "config.json"
    export_gguf(task, own, base=config, dtype=dtype)
    words = (task.bundle.path, "numbers", "-o", theirs, "--to", "gguf", "--base", config)
    done = run("extract", *words, "--dtype", dtype)
    assert done.returncode == 0, done.stderr
    answers = node(base, theirs)
    assert answers == node(base, own) == transformers_answers(task.factors())
    assert answers != node(base, None), "the adapter changes nothing here"
