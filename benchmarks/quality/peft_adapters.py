"""Make one adapter of every kind that PEFT has, on tiny models with random weights.

A case names a tuner and the settings that are not PEFT's own, as dictionaries so that PEFT is only
imported when an adapter is made. Every trained number is moved by seeded noise, so that no adapter
is the change of nothing that most begin as.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CASES", "Case", "base_model", "loaded_logits", "make"]

_QV = ["q_proj", "v_proj"]
_NOISE = 0.05


@dataclass(frozen=True)
class Case:
    """An adapter to make.

    name: of the case.  tuner: its peft_type.  settings: of its config.  model: "text", or "image"
    for a few convolutions.  targets: target_modules; None for tuners that take none.
    """

    name: str
    tuner: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = "text"
    targets: Any = None


def _case(
    name: str, tuner: str = "", targets: Any = _QV, model: str = "text", **settings: Any
) -> Case:
    return Case(name, tuner or name, settings, model, targets)


_PROMPT: dict[str, Any] = {"num_virtual_tokens": 4}

CASES: tuple[Case, ...] = (
    _case("LORA"),
    _case("LORA, rsLoRA", "LORA", use_rslora=True),
    _case("LORA, DoRA", "LORA", use_dora=True),
    _case("LORA, PiSSA", "LORA", init_lora_weights="pissa"),
    _case("LORA, OLoRA", "LORA", init_lora_weights="olora"),
    _case("LORA, EVA", "LORA", init_lora_weights="eva"),
    _case("LORA, aLoRA", "LORA", alora_invocation_tokens=[5, 6]),
    _case("LORA, lora_bias", "LORA", lora_bias=True),
    _case("LORA, bias", "LORA", bias="lora_only"),
    _case("LORA, trainable tokens", "LORA", trainable_token_indices=[3, 17]),
    _case("LORA, modules_to_save", "LORA", modules_to_save=["lm_head"]),
    _case("LORA, rank_pattern", "LORA", rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 5}),
    _case("LORA, target_parameters", "LORA", targets=[], model="experts",
          target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    _case("LORA, layer_replication", "LORA", layer_replication=[[0, 2], [1, 2]]),
    _case("LORA, KaSA", "LORA", kasa_config={}),
    _case("LORA, BD-LoRA", "LORA", use_bdlora={"nblocks": 2, "target_modules_bd_a": ["q_proj"],
          "target_modules_bd_b": ["v_proj"]}),
    _case("LORA, QALoRA", "LORA", use_qalora=True, qalora_group_size=16),
    _case("LORA, MonteCLoRA", "LORA", monteclora_config={}),
    _case("LORA, VeLoRA", "LORA", velora_config={}),
    _case("ADALORA", init_r=6, target_r=3, total_step=10, lora_alpha=12),
    _case("ADALORA, ranks cut", "ADALORA", init_r=4, target_r=2, total_step=10, lora_alpha=12,
          rank_pattern={f"model.layers.{i}.self_attn.{x}_proj.lora_E": ranks for i, x, ranks in (
              (0, "q", [True, False, True, True]), (0, "v", [True] * 4),
              (1, "q", [True, True, False, False]), (1, "v", [False] * 4))}),
    _case("LOHA", r=4, alpha=6),
    _case("LOHA, convolutions", "LOHA", targets=["conv", "point"], model="image", r=4, alpha=6,
          use_effective_conv2d=True),
    _case("LOKR", r=4, alpha=6, decompose_factor=4),
    _case("LOKR, both decomposed", "LOKR", r=2, alpha=6, decompose_both=True, decompose_factor=8),
    _case("LOKR, whole", "LOKR", r=64, alpha=32),
    _case("LOKR, convolutions", "LOKR", targets=["conv", "point"], model="image", r=2, alpha=6,
          use_effective_conv2d=True),
    _case("PROMPT_TUNING", targets=None, **_PROMPT),
    _case("MULTITASK_PROMPT_TUNING", targets=None, **_PROMPT),
    _case("P_TUNING", targets=None, **_PROMPT),
    _case("PREFIX_TUNING", targets=None, **_PROMPT),
    _case("CPT", targets=None, cpt_token_ids=[5, 6, 7], cpt_mask=[1, 1, 1],
          cpt_tokens_type_mask=[1, 2, 4]),
    _case("CARTRIDGE", targets=None, **_PROMPT),
    _case("ADAPTION_PROMPT", targets=None, adapter_len=4, adapter_layers=2),
    _case("IA3", targets=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    _case("LN_TUNING", targets=["input_layernorm", "norm"]),
    _case("BEFT"),
    _case("ROAD", group_size=8),
    _case("OFT", oft_block_size=8),
    _case("BOFT", boft_block_size=4),
    _case("HRA", r=4),
    _case("PSOFT", r=8),
    _case("VERA", r=16),
    _case("VERA, projections left out", "VERA", r=16, save_projection=False),
    _case("PVERA", r=16),
    _case("RANDLORA", r=8),
    _case("FROD"),
    _case("TINYLORA"),
    _case("ADAMSS", r=8),
    _case("VBLORA", vector_length=16, num_vectors=32, r=2, topk=2),
    _case("VBLORA, top k only", "VBLORA", vector_length=16, num_vectors=32, r=2, topk=2,
          save_only_topk_weights=True),
    _case("UNILORA"),
    _case("FOURIERFT", n_frequency=64),
    _case("WAVEFT", n_frequency=64),
    _case("C3A", block_size=16),
    _case("SHIRA", r=4),
    _case("SUPERTUNING"),
    _case("MISS", r=8),
    _case("DELORA", r=4),
    _case("GRALORA", r=8),
    _case("GLORA"),
    _case("HIRA", r=4),
    _case("PEANUT", r=4),
    _case("LILY", r=4),
    _case("POLY", r=4, n_tasks=2, n_skills=2),
    _case("OSF"),
    _case("DEFT", r=4),
    _case("SHADOW", targets=None),
    _case("TRAINABLE_TOKENS", targets=None, token_indices=[3, 17]),
    _case("XLORA", targets=None, hidden_size=64, adapters={}),
)  # fmt: skip


def base_model(kind: str) -> Any:
    """Return a model with seeded random weights.

    kind: "text" and "experts" are language models, "image" is not.
    """
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
    )

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "use_cache": False, "attention_bias": True, "initializer_range": 0.1,
    }  # fmt: skip
    if kind == "text":
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    elif kind == "experts":
        small = {"num_local_experts": 3, "num_experts_per_tok": 2}
        model = MixtralForCausalLM(MixtralConfig(**(sizes | small)))
    else:
        model = _image(torch)
    return model.eval()


def _image(torch: Any) -> Any:
    class Image(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 16, 3, padding=1)
            self.point = torch.nn.Conv2d(16, 8, 1)

        def forward(self, x: Any) -> Any:
            return self.point(torch.relu(self.conv(x)))

    return Image()


def make(case: Case, folder: Path, seed: int = 1) -> None:
    """Write the case's adapter as PEFT saves it; raises what PEFT raises."""
    import torch
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    settings = dict(case.settings)
    if case.targets is not None:
        settings["target_modules"] = case.targets
    if case.model != "image":
        settings["task_type"] = "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[case.tuner](**_objects(settings))  # type: ignore[index]
        torch.manual_seed(seed)
        model = get_peft_model(base_model(case.model), config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in sorted(model.named_parameters()):
                if parameter.requires_grad and parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(_NOISE * noise.to(parameter))
        model.save_pretrained(str(folder))


def _objects(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the nested ones as PEFT's own classes."""
    import peft
    from peft.tuners.lora import config as lora

    made = dict(settings)
    for name, owner, cls in (
        ("kasa_config", lora, "KasaConfig"),
        ("monteclora_config", lora, "MontecloraConfig"),
        ("velora_config", lora, "VeloraConfig"),
        ("use_bdlora", lora, "BdLoraConfig"),
    ):
        if name in made:
            kind = getattr(owner, cls, None) or getattr(peft, cls)
            made[name] = kind(**made[name])
    return made


def loaded_logits(case: Case, folder: Path | None) -> Any:
    """Return the model's answer with the adapter in the folder, loaded by PEFT.

    folder: None for the answer of the base.
    """
    import torch
    from peft import PeftModel

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = base_model(case.model)
        if folder is not None:
            model = PeftModel.from_pretrained(model, folder).eval()
        generator = torch.Generator().manual_seed(7)
        if case.model == "image":
            return model(torch.randn((2, 8, 6, 6), generator=generator)).numpy()
        ids = torch.randint(8, 90, (2, 12), generator=generator)
        ids[:, 3:5] = torch.tensor([5, 6])  # aLoRA's invocation
        ids[:, 7] = 17
        more: dict[str, Any] = {}
        if folder is not None and case.tuner in ("POLY", "MULTITASK_PROMPT_TUNING"):
            more["task_ids"] = torch.zeros(2, dtype=torch.long)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
        return out[:, -ids.shape[1] :].numpy()
