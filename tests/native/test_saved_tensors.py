"""Names of tensors that are kept whole: the command gives them those that Python does."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle.peft.folder import export_peft
from tests.export.test_export_formats import bundled, normal, save
from tests.native.conftest import Run

PREFIX = "base_model.model."
NAMES = {
    "one name": ["head.modules_to_save.en.weight", "head.modules_to_save.en.bias"],
    "no name": ["head.modules_to_save.weight"],
    "parts": ["head.modules_to_save.dense.bias", "head.modules_to_save.out.bias"],
    "a copy": ["head.dense.bias", "head.modules_to_save.dense.bias"],
    "what was before": ["head.modules_to_save.dense.bias", "head.original_module.dense.bias"],
    "named copies": [
        "head.dense.bias",
        "head.modules_to_save.default.dense.bias",
        "head.original_module.dense.bias",
    ],
    "alone": ["head.modules_to_save.dense.bias"],
    "tokens": ["head.modules_to_save.en.bias", "embed.trainable_tokens_delta.en"],
}
STAY = {"no name", "parts", "a copy", "what was before", "named copies"}


@pytest.mark.parametrize("case", NAMES)
def test_the_name_of_the_adapter_goes_and_no_part_of_the_module(
    run: Run, tmp_path: Path, case: str
) -> None:
    factors = {"h.0.q.lora_A.weight": normal(2, 8), "h.0.q.lora_B.weight": normal(6, 2)}
    kept = {name: normal(3) for name in NAMES[case]}
    arrays = {f"{PREFIX}{key}": x for key, x in {**factors, **kept}.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}
    adapter = save(tmp_path / "one", arrays, {**config, "modules_to_save": ["head"]})
    export_peft(bundled(tmp_path, adapter), tmp_path / "python")
    done = run("extract", tmp_path / "b.hydra.safetensors", "task", "-o", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    data = (tmp_path / "c" / "adapter_model.safetensors").read_bytes()
    assert all((f'"{PREFIX}{name}"'.encode() in data) == (case in STAY) for name in kept)


@pytest.mark.parametrize("tuner", ["LORA", "IA3"])
def test_a_coded_copy_of_the_bases_weight_stays_out(run: Run, tmp_path: Path, tuner: str) -> None:
    """A weight that PEFT saves below a pair: exports leave it to the base, which has it exactly."""
    parts = {
        "LORA": {"head.lora_A.weight": normal(2, 8), "head.lora_B.weight": normal(6, 2)},
        "IA3": {"head.ia3_l": normal(16, 1)},
    }[tuner]
    copy = f"{PREFIX}head.base_layer.weight"
    arrays = {f"{PREFIX}{key}": x for key, x in parts.items()} | {copy: normal(6, 8)}
    config = {"peft_type": tuner, "target_modules": ["head"], "feedforward_modules": []}
    adapter = save(tmp_path / "one", arrays, {**config, "r": 2, "lora_alpha": 2})
    merge([adapter], tmp_path / "b.hydra.safetensors", max_error=0.05, workers=1)
    task = open_bundle(tmp_path / "b.hydra.safetensors")["task"]
    assert copy in task.tensor_errors
    export_peft(task, tmp_path / "python")
    done = run("extract", tmp_path / "b.hydra.safetensors", "task", "-o", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    made = [(tmp_path / x / "adapter_model.safetensors").read_bytes() for x in ("c", "python")]
    assert made[0] == made[1]
    assert copy.encode() not in made[0]
