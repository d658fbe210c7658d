"""One bundle of adapters of different tuners: each comes back as what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.peft_adapters import CASES, make
from hydraopt import merge, open_bundle, read_adapters, verify_bundle
from hydraopt.errors import HydraoptError
from hydraopt.export import export_task

KINDS = ("LORA", "LORA, DoRA", "LORA, modules_to_save", "IA3", "LOHA", "LOKR", "OFT")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for case in CASES:
        if case.name in KINDS:
            made.append(tmp_path_factory.mktemp("kinds") / case.name.replace(", ", "-"))
            make(case, made[-1])
    assert len(made) == len(KINDS)
    return made


@pytest.fixture(scope="module")
def bundle(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "mixed.hydra.safetensors"
    merge(folders, path, max_error=0.05)
    return path


def test_all_are_as_near_as_was_asked(folders: list[Path], bundle: Path) -> None:
    assert verify_bundle(bundle, read_adapters(folders)).ok
    for task in open_bundle(bundle).values():
        assert task.error <= 0.05
        assert max(task.tensor_errors.values(), default=0) <= 0.08


def test_each_is_of_its_own_kind_again(folders: list[Path], bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    for folder in folders:
        export_task(opened[folder.name], tmp_path / folder.name)
        one, two = (
            json.loads((place / "adapter_config.json").read_text())
            for place in (folder, tmp_path / folder.name)
        )
        assert one["peft_type"] == two["peft_type"]
        assert one.get("use_dora") == two.get("use_dora")
    again = {adapter.name: adapter for adapter in read_adapters(sorted(tmp_path.iterdir()))}
    for adapter in read_adapters(folders):
        assert sorted(again[adapter.name].modules) == sorted(adapter.modules)
        for key, tensor in adapter.extras.items():
            off = np.linalg.norm(again[adapter.name].extras[key].numpy() - tensor.numpy())
            assert off <= 0.08 * np.linalg.norm(tensor.numpy())


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "OFT"])
def test_other_tools_refuse_what_they_cannot_apply(bundle: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(HydraoptError, match=kind):
        export_task(open_bundle(bundle)[kind], tmp_path / "out", format="vllm")
    assert not (tmp_path / "out").exists()
