"""A base model is loaded whole, or refused with the file and what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from hydraopt import open_bundle
from hydraopt.cli.main import cli
from hydraopt.errors import UsageError
from hydraopt.model import base_hash, files_of, load_model
from tests.runtime.conftest import bundle_of
from tests.small_model import tiny_speaker

__all__ = ["bundle_of"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
QUERY = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj.weight"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for part in tiny_speaker(64):
        part.save_pretrained(folder)
    return folder


def changed(whole: Path, tmp_path: Path, change: Change) -> Path:
    folder = tmp_path / "base"
    shutil.copytree(whole, folder)
    change(folder)
    return folder


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def config(**settings: Any) -> Change:
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return apply


def cut(name: str, share: float) -> Change:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return apply


def zeroed(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(bytes(64) + data[64:])


def longer(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"x" * 100)


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def gone(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def in_shards(change: Change) -> Change:
    def apply(folder: Path) -> None:
        gone(WEIGHTS)(folder)
        tiny_speaker(64)[0].save_pretrained(folder, max_shard_size="40KB")
        change(folder)

    return apply


def in_torch_file(change: Change) -> Change:
    def apply(folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        gone(WEIGHTS)(folder)
        change(folder)

    return apply


def runs_code(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "ran"),)

    gone(WEIGHTS)(folder)
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")


def second_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


NOT_WHOLE: dict[str, tuple[Change, str]] = {
    "one tensor lacks": (tensors(lambda x: x.pop(UP)), rf"lack tensors .*got 1: {UP}\."),
    "the head lacks": (tensors(lambda x: x.pop("lm_head.weight")), "got 1: lm_head.weight"),
    "a layer lacks": (
        tensors(lambda x: [x.pop(k) for k in list(x) if "layers.1." in k]),
        r"got 9: model\.layers\.1\..* and 5 more\.",
    ),
    "another name": (tensors(lambda x: [x.update({f"a.{k}": x.pop(k)}) for k in list(x)]), "lack"),
    "one too many": (tensors(lambda x: x.update(a=torch.zeros(3))), "does not have.*got 1: a"),
    "another shape": (
        tensors(lambda x: x.update({UP: torch.zeros(3, 4)})),
        rf"other shapes .*got 1: {UP} \(3, 4\) for \(64, 32\)",
    ),
    "a layer more": (config(num_hidden_layers=3), "lack tensors.*got 9"),
    "a layer less": (config(num_hidden_layers=1), "does not have.*got 9"),
    "another width": (config(head_dim=3), "other shapes"),
}
BROKEN: dict[str, tuple[Change, str]] = {
    **{f"cut at {x}": (cut(WEIGHTS, x), rf"cannot be read \[file .*{WEIGHTS}\]")
       for x in (0, 0.001, 0.05, 0.5, 0.99)},
    "zeroed": (zeroed, f"cannot be read .*{WEIGHTS}"),
    "longer": (longer, f"cannot be read .*{WEIGHTS}"),
    "no weights": (gone(WEIGHTS), "no file named model.safetensors"),
    "no tensor": (tensors(lambda x: x.clear()), "lack tensors|cannot be read|cannot load"),
    "no config": (gone("config.json"), "model_type"),
    "no tokenizer": (gone("tokenizer.json"), "tokenizer"),
    "no head": (config(num_attention_heads=0), "ZeroDivisionError"),
    "odd width": (config(hidden_size=33), "not a multiple|of other shapes"),
    "odd activation": (config(hidden_act="no"), "KeyError"),
    "odd quantisation": (config(quantization_config=3), "AttributeError"),
    "an adapter": (text("adapter_config.json", "{}"), "an adapter lies beside"),
    "odd tokenizer": (text("tokenizer.json", "{}"), "KeyError"),
    "a shard lacks": (in_shards(lambda x: second_shard(x).unlink()), "model-00002-of"),
    "a shard cut": (in_shards(lambda x: cut(second_shard(x).name, 0.5)(x)), "model-00002-of"),
    "an index of nothing": (in_shards(text(INDEX, "{}")), "weight_map"),
    "a torch file cut": (in_torch_file(cut("pytorch_model.bin", 0.6)), "cannot load"),
    "no torch file": (in_torch_file(text("pytorch_model.bin", "x" * 9000)), "cannot load"),
    "a torch file that runs code": (runs_code, "cannot load"),
    **{
        f"{name} of {content[:9]!r}": (text(name, content), rf"cannot be read \[file .*{name}\]")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json",
                     "generation_config.json")
        for content in ("", "{", "[]", "null", "3", "\0\0", "[" * 100_000)
    },
}  # fmt: skip


@pytest.mark.parametrize("case", [*NOT_WHOLE, *BROKEN])
def test_what_is_not_whole_is_refused_with_file_and_remedy(case, whole, tmp_path) -> None:
    change, said = {**NOT_WHOLE, **BROKEN}[case]
    folder = changed(whole, tmp_path, change)
    with pytest.raises(UsageError, match=said) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "Fetch the base model again" in message or "Give " in message
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        in_shards(lambda _: None),
        in_torch_file(lambda _: None),
        tensors(
            lambda x: x.update({"model.layers.0.self_attn.rotary_emb.inv_freq": x[UP][0].clone()})
        ),
        gone("generation_config.json"),
    ],
)
def test_what_is_whole_is_loaded(change, whole, tmp_path) -> None:
    model, _ = load_model(changed(whole, tmp_path, change))
    right = tiny_speaker(64)[0].state_dict()
    assert all(torch.equal(x, right[name]) for name, x in model.state_dict().items())


def test_tied_embeddings_are_stored_once(tmp_path) -> None:
    model, tokenizer = tiny_speaker(64)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    loaded, _ = load_model(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.model.embed_tokens.weight)


@pytest.fixture
def by_name(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub's name of the base, as transformers has put it aside."""
    kept = tmp_path / "hub/models--some--one"
    shutil.copytree(whole, kept / "snapshots/abc")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "some/one"


def test_files_of_a_name_are_those_put_aside(by_name: str, whole: Path, tmp_path: Path) -> None:
    assert files_of(by_name) == tmp_path / "hub/models--some--one/snapshots/abc"
    assert files_of(whole) == whole
    assert files_of("some/other") is None


def test_a_name_is_remembered_by_its_files(by_name: str, whole: Path, tmp_path: Path) -> None:
    """So that what was measured with it is known again, as it is for a folder."""
    assert base_hash(by_name) == base_hash(whole) is not None
    config = tmp_path / "hub/models--some--one/snapshots/abc/config.json"
    config.write_text(config.read_text() + "\n")
    assert base_hash(by_name) not in (None, base_hash(whole))
    assert base_hash("some/other") is None


def test_whole_tensors_are_coded_with_a_base_that_has_a_name(
    by_name: str, tmp_path: Path, make_adapter
) -> None:
    """By merge and by add: each asks the base for tensors that these could take the place of."""
    rng = np.random.default_rng(0)
    factors = {QUERY: (rng.standard_normal((32, 2)), rng.standard_normal((2, 32)))}
    magnitude = {f"base_model.model.{QUERY}.lora_magnitude_vector": np.ones(32, np.float32)}
    for task in ("a", "b"):
        make_adapter(tmp_path / task, factors, extras=magnitude, use_dora=True, base=by_name)
    out = str(tmp_path / "x.hydra.safetensors")
    based = ["--base", by_name, "--max-error", "0.1"]
    for args in (["merge", str(tmp_path / "a"), "-o", out], ["add", out, str(tmp_path / "b")]):
        result = CliRunner().invoke(cli, [*args, *based])
        assert result.exit_code == 0, result.output
    assert list(open_bundle(out)) == ["a", "b"]
