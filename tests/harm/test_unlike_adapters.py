"""Adapters that are more than changes of the base's linear modules: the base model tells nothing of
them, and their prompts are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel

from hydraopt.adapters import read_adapters
from hydraopt.bundle import open_bundle
from hydraopt.errors import UsageError
from hydraopt.model import AnswerJudge, attached, place
from tests.basemodel.cases import PATHS
from tests.harm.cases import run
from tests.marks import slow
from tests.raising import raises

VOCABULARY = 259
SIDES = [(i, side) for i in (1, 2) for side in "ab"]
KINDS = {
    "loha": ("factors of products", "the tuner LOHA, factors of products"),
    "embedding": ("embedding factors", "embedding factors"),
    "pissa": 2 * ("an initialisation that changes the base, pissa",),
}
"""Kinds of adapter: what the base model is not asked for, and why their prompts are refused."""


@pytest.fixture
def folder_of(make_adapter, tmp_path: Path) -> Callable[[str], Path]:
    """An adapter of a kind, "plain" or one of KINDS."""

    def made(kind: str) -> Path:
        rng = np.random.default_rng(len(kind))

        def drawn(*shape: int) -> NDArray[np.float32]:
            return (0.1 * rng.standard_normal(shape)).astype(np.float32)

        parts = {f"hada_w{i}_{side}": (32, 2) if side == "a" else (2, 32) for i, side in SIDES}
        extras = {
            "loha": {
                f"{path}.{part}": drawn(*size) for path in PATHS for part, size in parts.items()
            },
            "embedding": {
                "model.embed_tokens.lora_embedding_A": drawn(2, VOCABULARY),
                "model.embed_tokens.lora_embedding_B": drawn(32, 2),
            },
        }.get(kind, {})
        config = {
            "loha": {"peft_type": "LOHA", "alpha": 2, "r": 2},
            "pissa": {"init_lora_weights": "pissa"},
        }.get(kind, {})
        modules = {} if kind == "loha" else {p: (drawn(32, 2), drawn(2, 32)) for p in PATHS}
        whole = {f"base_model.model.{key}": value for key, value in extras.items()}
        folder: Path = make_adapter(tmp_path / kind, modules, extras=whole)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return folder

    return made


@pytest.mark.parametrize("kind", [next(iter(KINDS)), *map(slow, [*KINDS][1:])])
def test_they_are_merged_beside_others_of_which_the_base_tells(
    kind: str, base: Path, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    plain, odd = folder_of("plain"), folder_of(kind)
    out = tmp_path / "x.hydra.safetensors"
    result = run("merge", plain, odd, "--base", base, "--error", "0.1", "-o", out)
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert f"{kind} matter: it has {KINDS[kind][0]}" in told
    assert open_bundle(out).manifest.recipe["sensitivity"] == 1
    seen = AnswerJudge(str(base), read_adapters([plain, odd]), {})
    assert set(seen.unseen) == {kind}
    assert set(seen.sensitivities()) == {"plain"}


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_them_are_refused(
    kind: str, base: Path, folder_of: Callable[[str], Path]
) -> None:
    adapters = read_adapters([folder_of(kind)])
    with raises(UsageError, adapter=kind, got=KINDS[kind][1]):
        AnswerJudge(str(base), adapters, {kind: ["x"]})


def test_linear_layers_of_gpt2_are_linear() -> None:
    """Theirs keep the weight the other way round: (inputs, outputs)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    rng = np.random.default_rng(0)
    path = "transformer.h.0.attn.c_attn"
    b, a = rng.standard_normal((24, 2)), rng.standard_normal((2, 8))
    ids = torch.arange(6)[None]
    with torch.no_grad():
        plain = model(ids).logits
        with attached(model, place(model, {path: (b, a)})):
            got = model(ids).logits
        model.get_submodule(path).weight += torch.from_numpy((b @ a).T).float()
        want = model(ids).logits
    assert not torch.allclose(plain, want, atol=1e-2)
    torch.testing.assert_close(got, want)
