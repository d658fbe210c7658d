"""A copy of the base's own weight, which PEFT saves below a pair on a head, keeps nobody out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hydraopt import attach, merge, open_bundle
from hydraopt.adapters import read_adapter
from hydraopt.bundle import TaskAdapter
from hydraopt.errors import ExportError, UsageError
from hydraopt.export import export_task
from tests.export.test_export_merged import trained
from tests.raising import raises
from tests.small_model import tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

KEY = "base_model.model.lm_head.base_layer.weight"
PATHS = {"lm_head", *(f"model.layers.{i}.self_attn.q_proj" for i in range(2))}


def tasks(folder: Path, change: Any = None, **limit: Any) -> TaskAdapter:
    """The base in folder / "base", and a task with a LoRA on its head, as PEFT saves it.

    change: of the copy of the head's weight.
    """
    tiny_llama().save_pretrained(folder / "base")
    made = []
    for name in ("x", "y"):
        adapter = trained(tiny_llama(), folder / name, target_modules=["q_proj", "lm_head"], r=2)
        held = load_file(adapter / "adapter_model.safetensors")
        assert KEY in held
        if change is not None:
            held[KEY] = change(held[KEY])
        save_file(held, adapter / "adapter_model.safetensors")
        made.append(adapter)
    merge(made, folder / "b.hydra.safetensors", **limit)
    return open_bundle(folder / "b.hydra.safetensors")["x"]


def products(folder: Path) -> dict[str, Any]:
    return {path: np.matmul(*m.factors()) for path, m in read_adapter(folder).modules.items()}


@pytest.mark.parametrize("limit", [{"lossless": True}, {"max_error": 0.05}], ids=str)
def test_where_the_base_is_at_hand_its_copy_is_dropped(limit: Any, tmp_path: Path) -> None:
    task = tasks(tmp_path, **limit)
    base = tmp_path / "base"
    for form in ("vllm", "mlx"):
        export_task(task, tmp_path / form, format=form, base=base)
        got = products(tmp_path / form)
        assert set(got) == PATHS
        for path, factors in task.factors().items():
            np.testing.assert_allclose(got[path], factors.B @ factors.A, atol=1e-5)


@pytest.mark.parametrize("change", [1, 1.2])
@pytest.mark.parametrize("type_", ["float32", "float16", "bfloat16"])
def test_the_head_of_a_gguf_base(type_: str, change: float, tmp_path: Path) -> None:
    task = tasks(tmp_path, lambda x: x * change, lossless=True)
    model = tiny_llama()
    shapes = {f"blk.{i}.attn_q.weight": (32, 32) for i in range(2)}
    file = tmp_path / "base.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    head = model.lm_head.weight.detach().to(getattr(torch, type_))
    kind = gguf.GGMLQuantizationType[
        {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[type_]
    ]
    data = head.view(torch.uint8).numpy() if type_ == "bfloat16" else head.numpy()
    writer.add_tensor("output.weight", data, raw_dtype=kind)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if change == 1:
        export_task(task, tmp_path / "x.gguf", format="gguf", base=file)
        made = {x.name for x in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
        assert {"output.weight.lora_a", "output.weight.lora_b"} <= made
    else:
        with pytest.raises(ExportError):
            export_task(task, tmp_path / "x.gguf", format="gguf", base=file)


@pytest.mark.parametrize("type_", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_copy_may_be_of_another_type(type_: torch.dtype, tmp_path: Path) -> None:
    task = tasks(tmp_path, lambda x: x.to(type_), lossless=True)
    export_task(task, tmp_path / "out", format="vllm", base=tmp_path / "base")
    assert set(products(tmp_path / "out")) == PATHS


def test_without_the_base_it_is_said_what_to_do(tmp_path: Path) -> None:
    task = tasks(tmp_path, lossless=True)
    for form, name in (("vllm", "out"), ("mlx", "out"), ("onnx", "out.onnx_adapter")):
        with pytest.raises(ExportError):
            export_task(task, tmp_path / name, format=form)
    with pytest.raises(UsageError):
        export_task(task, tmp_path / "out", format="vllm", base=tmp_path / "nowhere")
    # A config alone does not say what the weights are.
    (tmp_path / "bare").mkdir()
    about = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps(about))
    with pytest.raises(ExportError):
        export_task(task, tmp_path / "out", format="mlx", base=tmp_path / "bare")


@pytest.mark.parametrize("limit", [{"lossless": True}, {"max_error": 0.05}], ids=str)
def test_another_weight_than_the_bases_is_refused(limit: Any, tmp_path: Path) -> None:
    task = tasks(tmp_path, lambda x: x * 1.2, **limit)
    for form, name in (("vllm", "out"), ("mlx", "out"), ("gguf", "out.gguf")):
        with pytest.raises(ExportError):
            export_task(task, tmp_path / name, format=form, base=tmp_path / "base")
    with (
        attach(tiny_llama(), task.bundle) as attached,
        raises(UsageError, file="b.hydra.safetensors", expected="low-rank"),
    ):
        attached.set_task("x")


@pytest.mark.parametrize("limit", [{"lossless": True}, {"max_error": 0.05}], ids=str)
@pytest.mark.parametrize("type_", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_attached_to_the_base_itself(limit: Any, type_: torch.dtype, tmp_path: Path) -> None:
    task = tasks(tmp_path, **limit)
    model = tiny_llama().to(type_)
    x = torch.randn(1, 3, 32).to(type_)
    before = model.lm_head(x)
    factors = task.factors()["lm_head"]
    with attach(model, task.bundle) as attached:
        attached.set_task("x")
        change = (model.lm_head(x) - before)[0].double().numpy()
    right = x[0].double().numpy() @ (factors.B @ factors.A).T
    assert np.linalg.norm(change - right) < (0.03 if type_ is torch.bfloat16 else 1e-4) * (
        np.linalg.norm(right)
    )
