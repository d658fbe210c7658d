"""What verify passes can be exported, and nothing that is forged raises a raw error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import event, given, settings

from hydraopt.bundle import open_bundle, verify_bundle
from hydraopt.bundle.restore.peft import export_peft
from hydraopt.bundle.task import TaskAdapter
from hydraopt.errors import ExportError, HydraoptError
from tests.bundle.forged import forgeries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged")


@settings(max_examples=100)
@given(forgeries())
def test_what_verify_passes_can_be_exported(folder: Path, data: bytes) -> None:
    path = folder / "x.hydra.safetensors"
    path.write_bytes(data)
    sound = verify_bundle(path).ok
    event("sound" if sound else "refused")
    try:
        bundle = open_bundle(path)
    except HydraoptError:
        assert not sound
        return
    for name in bundle:
        error = refusal(bundle[name], folder / "out")
        if not sound or error is None or of_base(bundle[name]):
            continue
        # Other formats hold what PEFT has no place for; a scale may leave the range of a type.
        assert isinstance(error, ExportError)
        assert bundle[name].entry.format != "peft" or out_of_range(bundle[name])


def refusal(task: TaskAdapter, target: Path) -> HydraoptError | None:
    """The error of an export in the widest type, if any."""
    dtype = "same" if task.entry.lossless else "float64"
    try:
        export_peft(task, target, dtype=dtype, overwrite=True)
    except HydraoptError as error:
        return error
    return None


def of_base(task: TaskAdapter) -> bool:
    return any(task.bundle.manifest.tensors[i].base for i in task.entry.tensors)


def out_of_range(task: TaskAdapter) -> bool:
    text = repr((task.config, dict(task.entry.bias_scales)))
    return any(x in text for x in ("1e+299", "1e+300", "1e-300", str(10**20)))
