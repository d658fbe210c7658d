"""adapter_config.json, and LoRA GGUF files, byte by byte as hydraopt writes them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from hydraopt.bundle import open_bundle
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.errors import HydraoptError
from hydraopt.export import export_gguf
from tests.export.targets import small_task
from tests.native.conftest import GOLDEN, Run
from tests.native.mutants import Pieces

SOUND = (GOLDEN / "layouts" / "ranks" / "bundle.hydra.safetensors").read_bytes()
# Settings that a reader of PEFT's knows, and others, which are passed on as they are.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def with_config(**changes: Any) -> bytes:
    """The bundle of SOUND with other settings of its first config; None leaves a setting out."""
    pieces = Pieces.of(SOUND)
    whole = json.loads(pieces.text)
    config = {**whole["configs"][0], **changes}
    whole["configs"][0] = {key: x for key, x in config.items() if x is not ...}
    pieces.text = json.dumps(whole, ensure_ascii=False, sort_keys=True).encode()
    return pieces.pack()


def both_configs(run: Run, data: bytes) -> tuple[bytes | str, bytes | str]:
    """The config as hydraopt writes it, and as the command does; a text if it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.hydra.safetensors"
        path.write_bytes(data)
        task, ours = next(open_bundle(path).one_by_one()), Path(folder) / "a"
        done = run("extract", path, task.name, "-o", Path(folder) / "b")
        theirs: bytes | str = done.stderr
        if done.returncode == 0:
            theirs = (Path(folder) / "b" / "adapter_config.json").read_bytes()
        try:
            export_peft(task, ours)
        except HydraoptError as error:
            return str(error), theirs
        return (ours / "adapter_config.json").read_bytes(), theirs


@pytest.mark.slow
@settings(max_examples=12)
@given(TEXTS.filter(bool), VALUES)
def test_settings_are_written_as_python_writes_them(run: Run, key: str, value: Any) -> None:
    ours, theirs = both_configs(run, with_config(**{f"x{key}": value}))
    assert theirs == ours


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=20, max_size=20))
def test_numbers_are_the_shortest_that_are_the_same(run: Run, values: list[float]) -> None:
    odd = [5e-324, 1e16, 123456789012345680.0, 1e-5, 0.0001, -0.0, 1.7976931348623157e308]
    ours, theirs = both_configs(run, with_config(x=values + odd))
    assert theirs == ours


def test_powers_of_two_are_the_shortest_that_are_the_same(run: Run) -> None:
    """Doubles lie closer below such a number than above: of 2**-24 the nearest 16 digits below are
    another number, the next ones above are not."""
    ours, theirs = both_configs(run, with_config(x=[2.0**x for x in range(-1074, 1024)]))
    assert theirs == ours


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "all-linear"},
        {"target_modules": "ALL-Linear"},
        {"target_modules": r".*\.(q_proj|k_proj|v_proj|o_proj|up_proj|down_proj)"},
        {"target_modules": r"(?:.*?(?:language|h|model).*?(?:attn|mlp)?.*?(?:[qkvo]|\w+_proj).*?)"},
        {"target_modules": "("},
        {"layers_to_transform": [0], "layers_pattern": r"(h)"},
        {"target_modules": ...},
        {"target_modules": ..., "exclude_modules": "x"},
        {"target_modules": ..., "target_parameters": ["h.0.q"]},
        {"target_modules": []},
        {"target_modules": None},
        {"target_parameters": ["h.0.q"]},
        {"base_model_name_or_path": ""},
        {"base_model_name_or_path": ...},
        {"init_lora_weights": "pissa", "r": 1},
        {"rank_pattern": {"(": 2}, "alpha_pattern": 7},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "gaussian", "r": 3},
        {"init_lora_weights": False},
    ],
    ids=str,
)
def test_settings_are_copied_or_written_anew(run: Run, changes: dict[str, Any]) -> None:
    ours, theirs = both_configs(run, with_config(**changes))
    if isinstance(ours, str):
        assert isinstance(theirs, str)
    else:
        assert theirs == ours


@pytest.mark.parametrize(
    "paths",
    [
        ("h.q", "x.h\xe9q"),
        ("\xe9.q", "x.\xe9.q"),
        ("h.\xe9", "h.\xe8"),
        ("h[0].q", "x.h0.q"),
        ("a|b.q", "x.b.q"),
        ("a|q", "x.a"),
        ("a+.q", "aa.q"),
        ("x{2}y", "xxy"),
        ("h.(q)", "h.q"),
        ("h.(q", "x.h.(q"),
        ("h\\.q", "h.q"),
        ("q\\x41", "qA"),
        ("q.\\", "x.q.\\"),
        ("h:0/q", "x.h:0/q"),
        ("h 0#q", "x.h-0~q"),
        ("\u4e2d.q", "x.h.\u4e2d.q"),
        ("a-b.q", "x.a-b.q"),
        (".q", "x..q"),
    ],
    ids=ascii,
)
def test_patterns_of_odd_names_are_those_of_python(run: Run, paths: tuple[str, str]) -> None:
    pieces = Pieces.of(with_config(target_modules="all-linear"))
    whole = json.loads(pieces.text)
    whole["modules"]["path"] = list(paths)
    pieces.text = json.dumps(whole, ensure_ascii=False, sort_keys=True).encode()
    ours, theirs = both_configs(run, pieces.pack())
    assert theirs == ours


def test_gguf_rows_are_moved_by_the_path_of_the_module(run: Run, tmp_path: Path) -> None:
    """PEFT matches a wrapped layer by what is before its ".base_layer"; llama.cpp knows none."""
    pieces = Pieces.of((GOLDEN / "layouts" / "linear" / "bundle.hydra.safetensors").read_bytes())
    whole, layer = json.loads(pieces.text), "model.layers.0.self_attn"
    whole["modules"]["path"] = [f"{layer}.q_proj", f"{layer}.v_proj"]
    keys = [[0, half, f"base_model.model.{layer}.base_layer.q_proj.lora_{half}.weight"]
            for half in "AB"]  # fmt: skip
    whole["tasks"]["keys"] = [keys]
    pieces.text = json.dumps(whole, sort_keys=True).encode()
    (tmp_path / "b.hydra.safetensors").write_bytes(pieces.pack())
    base = {"model_type": "llama", "num_attention_heads": 1, "num_hidden_layers": 2}
    (tmp_path / "base").mkdir()
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(base))
    task = next(open_bundle(tmp_path / "b.hydra.safetensors").one_by_one())
    export_gguf(task, tmp_path / "a.gguf", base=file.parent)
    words = ("--to", "gguf", "--base", file, "-o", tmp_path / "b.gguf")
    done = run("extract", task.bundle.path, task.name, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_gguf_files_are_the_same(run: Run, kind: str, dtype: str, tmp_path: Path) -> None:
    base = {"model_type": kind, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "base").mkdir()
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps({**base, "num_hidden_layers": 2}))
    task = small_task(tmp_path)
    export_gguf(task, tmp_path / "a.gguf", base=file.parent, dtype=dtype)
    words = ("--to", "gguf", "--base", file, "--dtype", dtype, "-o", tmp_path / "b.gguf")
    done = run("extract", task.bundle.path, task.name, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("conv", "convolution"),
        ("embedding", "embedding"),
        ("fused", "fused"),
        ("bias", "no low-rank"),
        ("pissa", "changes the base"),
        ("ia3", "another tuner"),
        ("linear", "lacks"),
    ],
)
def test_what_llama_cpp_cannot_hold(run: Run, layout: str, says: str, tmp_path: Path) -> None:
    base = {"model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(base))
    bundle = GOLDEN / "layouts" / layout / "bundle.hydra.safetensors"
    words = ("--to", "gguf", "--base", tmp_path, "-o", tmp_path / "x.gguf")
    done = run("extract", bundle, next(iter(open_bundle(bundle))), *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert not (tmp_path / "x.gguf").exists()
