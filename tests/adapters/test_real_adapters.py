"""Files that strangers trained and published: each is read whole, or refused with a reason."""

from __future__ import annotations

import pytest

from hydraopt.adapters import base_key, read_adapter

# path: (format, base, modules, r, scale, extras)
REAL = {
    "mycguo__fine-tune-ai-model/fine_tuned_model": ("peft", "gpt2", 36, 8, 2.0, 0),
    "deepbiolab__gpt2-classification-peft/peft_model": ("peft", "gpt2", 36, 8, 4.0, 1),
    "sdtrklse__lightweight-fine-tuning/peft_model": (
        "peft", "distilbert-base-uncased", 12, 8, 4.0, 4),
    "Raghava-Ram__self-healing-classification-dag/fine_tuned_model": (
        "peft", "distilbert-base-uncased", 12, 4, 8.0, 4),
    "SARAELSAFTY__Movies-_with_lora/model": ("peft", "EleutherAI/gpt-neo-125M", 24, 8, 2.0, 0),
    "branbot6__sift-opf-zh/adapter": ("peft", "openai/privacy-filter", 32, 16, 2.0, 2),
    "catundchat__stable-diffusion-v1.5-lora": ("diffusers", None, 128, 4, 1.0, 0),
    "cloneofsimo__lora/example_loras": ("diffusers", None, 192, 1, 1.0, 2),
    "microsoft__LoRA/examples/NLU": ("loralib", None, 24, 8, 1.0, 4),
    "niket-sharma__LLMs-from-groundup/lora_adapters": ("peft", "distilgpt2", 6, 8, 2.0, 0),
    "paulohenriquecrs__RoBERTa_SEQ_CLS_LoRA_Portuguese/roberta-portuguese-peft": (
        "peft", "roberta-base", 24, 8, 2.0, 4),
    "wujindou__BLOOM-LORA": ("peft", "bigscience/bloom-560m", 48, 8, 2.0, 0),
    "wyek1n__MLX-CLI/adapters/0000100_adapters.safetensors": (
        "mlx", "qwen2.5-0.5b-instruct", 8, 8, 10.0, 0),
    "AguLeon__LoRA_RoBERTa_AGNews/results/checkpoint-1200": (
        "peft", "roberta-base", 36, 4, 4.0, 105),
}  # fmt: skip


@pytest.mark.parametrize("path", REAL)
def test_real_adapter(shared, path):
    adapter = read_adapter(shared / "adapters" / path)
    form, base, modules, r, scale, extras = REAL[path]
    assert adapter.format == form
    assert base_key(adapter.base_model or "") == base_key(base or "")
    assert (len(adapter.modules), len(adapter.extras)) == (modules, extras)
    assert {(module.r, module.scale) for module in adapter.modules.values()} == {(r, scale)}
    held = {t.name for module in adapter.modules.values() for t in (module.a, module.b)}
    assert held | set(adapter.extras) == set(adapter.tensors)
    assert list(adapter.modules) == sorted(adapter.modules)
    adapter.check_finite()
    size = adapter.source.stat().st_size
    assert 4 * adapter.numbers <= size <= 4 * adapter.numbers + 80_000
