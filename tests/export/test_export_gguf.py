"""LoRA GGUF files: names, order of rows, alpha, types, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from hydraopt.errors import ExportError, MissingExtraError, UsageError
from hydraopt.export import export_gguf
from hydraopt.export.gguf import read_gguf_base
from tests.conftest import write_adapter
from tests.export.targets import RANKS, SHAPES, bundled, of_gguf, pairs, products, small_task
from tests.raising import raises

LLAMA = {
    "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}  # fmt: skip


def config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


def base_gguf(file: Path, architecture: str = "llama", **shapes: tuple[int, ...]) -> Path:
    """A base model of zeros, as llama.cpp names things."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_uint32(f"{architecture}.attention.head_count", 4)
    writer.add_uint32(f"{architecture}.attention.head_count_kv", 2)
    writer.add_uint32(f"{architecture}.block_count", 2)
    names = {"attn_q": (32, 32), "attn_k": (16, 32), "ffn_down": (32, 48), **shapes}
    for i in range(2):
        for name, shape in names.items():
            writer.add_tensor(f"blk.{i}.{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def text(reader: gguf.GGUFReader, key: str) -> str:
    return bytes(reader.fields[key].parts[-1]).decode()


def test_the_file_says_what_llama_cpp_asks(tmp_path: Path) -> None:
    export_gguf(small_task(tmp_path), tmp_path / "x.gguf", base=config(tmp_path / "base"))
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert text(reader, "general.type") == "adapter"
    assert text(reader, "general.architecture") == "llama"
    assert text(reader, "adapter.type") == "lora"
    assert float(reader.fields["adapter.lora.alpha"].parts[-1][0]) == max(RANKS.values())
    shapes = {x.name: tuple(x.shape) for x in reader.tensors}
    # In GGUF's own order of axes: a is (n, r), b is (r, m).
    assert shapes["blk.1.attn_k.weight.lora_a"] == (32, 3)
    assert shapes["blk.1.attn_k.weight.lora_b"] == (3, 16)
    assert len(shapes) == 2 * 2 * len(SHAPES)


def test_an_alora_says_after_which_tokens_it_acts(tmp_path: Path) -> None:
    base = config(tmp_path / "base")
    key = "adapter.alora.invocation_tokens"
    task = small_task(tmp_path / "a", alora_invocation_tokens=[7, 151645, 2])
    export_gguf(task, tmp_path / "x.gguf", base=base, dtype="f32")
    field = gguf.GGUFReader(tmp_path / "x.gguf").fields[key]
    # llama.cpp takes an array of uint32 and refuses the file for any other type.
    assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32]
    assert [int(field.parts[i][0]) for i in field.data] == [7, 151645, 2]
    found, expected = of_gguf(tmp_path / "x.gguf", base), products(task)
    for path, dense in expected.items():
        np.testing.assert_allclose(found[path], dense, atol=1e-6)
    export_gguf(small_task(tmp_path / "b"), tmp_path / "y.gguf", base=base)
    assert key not in gguf.GGUFReader(tmp_path / "y.gguf").fields


@pytest.mark.parametrize("tokens", ["<think>", [1, -1], [1 << 31], [1.5], [True], {"a": 1}])
def test_invocation_tokens_that_are_none_are_refused(tokens: Any, tmp_path: Path) -> None:
    task = small_task(tmp_path, alora_invocation_tokens=tokens)
    with raises(ExportError, adapter="numbers"):
        export_gguf(task, tmp_path / "x.gguf", base=config(tmp_path / "base"))
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("model_type", "architecture"), [("gemma3_text", "gemma3"), ("qwen2", "qwen2")]
)
def test_rows_are_permuted_for_llama_alone(
    model_type: str, architecture: str, tmp_path: Path
) -> None:
    """What all formats have to keep is tested with a Llama."""
    task = small_task(tmp_path)
    base = config(tmp_path / "base", model_type=model_type)
    export_gguf(task, tmp_path / "x.gguf", base=base, dtype="f32")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert text(reader, "general.architecture") == architecture
    data = {x.name: np.array(x.data) for x in reader.tensors}
    for kind, path in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj")):
        a, b = (data[f"blk.0.{kind}.weight.lora_{x}"] for x in "ab")
        stored = max(RANKS.values()) / len(a) * b @ a
        np.testing.assert_allclose(stored, products(task)[f"model.layers.0.{path}"], atol=1e-6)


def test_types(tmp_path: Path) -> None:
    task, base = small_task(tmp_path), config(tmp_path / "base")
    expected = products(task)
    errors = {}
    for dtype in ("f32", "f16", "q8_0"):
        export_gguf(task, tmp_path / f"{dtype}.gguf", base=base, dtype=dtype)
        reader = gguf.GGUFReader(tmp_path / f"{dtype}.gguf")
        kinds = {x.name: x.tensor_type.name for x in reader.tensors}
        found = of_gguf(tmp_path / f"{dtype}.gguf", base)
        errors[dtype] = max(
            np.abs(found[p] - d).max() / np.abs(d).max() for p, d in expected.items()
        )
        # Rows of 32 can be Q8_0, rows of a rank or of 48 cannot.
        wanted = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}[dtype]
        assert kinds["blk.0.attn_q.weight.lora_a"] == wanted
        other = "F16" if dtype == "q8_0" else wanted
        assert kinds["blk.0.attn_q.weight.lora_b"] == other
        assert kinds["blk.0.ffn_down.weight.lora_a"] == other
    assert errors["f32"] < 1e-6 < errors["f16"] < 2e-3
    assert errors["f16"] < errors["q8_0"] < 2e-2
    with raises(UsageError, got="'q4_0'"):
        export_gguf(task, tmp_path / "x.gguf", base=base, dtype="q4_0")


def test_a_gguf_base_is_checked_tensor_by_tensor(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    base = base_gguf(tmp_path / "base.gguf")
    export_gguf(task, tmp_path / "x.gguf", base=base)
    export_gguf(task, tmp_path / "y.gguf", base=config(tmp_path / "base"))
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()
    other = base_gguf(tmp_path / "other.gguf", attn_k=(32, 32))
    with raises(
        ExportError,
        adapter="numbers",
        module="model.layers.0.self_attn.k_proj",
        got="blk.0.attn_k.weight (32, 32)",
        expected="(16, 32)",
    ):
        export_gguf(task, tmp_path / "z.gguf", base=other)
    with pytest.raises(ExportError):
        export_gguf(task, tmp_path / "z.gguf", base=base_gguf(tmp_path / "m.gguf", "mamba"))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(UsageError):
        export_gguf(task, tmp_path / "z.gguf", base=damaged)
    assert not (tmp_path / "z.gguf").exists()


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": "2"}, {"num_attention_heads": 0}, {"num_key_value_heads": [1, 2]}],
)
def test_a_senseless_config_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_gguf_base(config(tmp_path / "base", **changes))


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"num_hidden_layers": 1},
            {"adapter": "numbers", "module": "model.layers.1.mlp.down_proj"},
        ),
        (
            {"num_attention_heads": 5},
            {
                "adapter": "numbers",
                "module": "model.layers.0.self_attn.q_proj",
                "got": "32 rows, 5 heads",
            },
        ),
        ({"model_type": "mamba"}, {"file": "config.json", "got": "'mamba'"}),
    ],
)
def test_another_base_is_refused(
    changes: dict[str, Any], facts: dict[str, object], tmp_path: Path
) -> None:
    task = small_task(tmp_path)
    with raises(ExportError, **facts):
        export_gguf(task, tmp_path / "x.gguf", base=config(tmp_path / "base", **changes))
    assert not (tmp_path / "x.gguf").exists()


def test_lm_head_needs_the_gguf_of_the_base(tmp_path: Path) -> None:
    # Only that file tells whether the embeddings are tied, when llama.cpp has no such tensor.
    made = write_adapter(tmp_path / "numbers", {"lm_head": (np.ones((97, 2)), np.ones((2, 32)))})
    task = bundled(tmp_path, made)["numbers"]
    with raises(ExportError, adapter="numbers", module="lm_head"):
        export_gguf(task, tmp_path / "x.gguf", base=config(tmp_path / "base"))
    with pytest.raises(ExportError):
        export_gguf(task, tmp_path / "x.gguf", base=base_gguf(tmp_path / "b.gguf"))


def test_numbers_too_large_for_f16_are_refused(tmp_path: Path) -> None:
    large = {path: (b * 1e6, a * 1e6) for path, (b, a) in pairs().items()}
    task = bundled(tmp_path, write_adapter(tmp_path / "numbers", large))["numbers"]
    base = config(tmp_path / "base")
    with pytest.raises(ExportError):
        export_gguf(task, tmp_path / "x.gguf", base=base)
    assert sorted(x.name for x in tmp_path.iterdir() if "x.gguf" in x.name) == []
    export_gguf(task, tmp_path / "x.gguf", base=base, dtype="f32")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError):
        export_gguf(small_task(tmp_path), tmp_path / "x.gguf", base=config(tmp_path / "base"))
