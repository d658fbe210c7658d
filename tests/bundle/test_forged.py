"""What verify passes can be exported, and nothing that is forged raises a raw error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import event, given

from benchmarks.hostile.samples import write_base
from hydraopt.bundle import TaskAdapter, open_bundle, verify_bundle
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.errors import AlignmentError, ExportError, HydraoptError, UsageError
from hydraopt.export import FORMATS, export_task
from tests.bundle.forged import forgeries
from tests.conformance.make import CASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged")


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
    return any(task.manifest.tensors[i].base for i in task.entry.tensors)


def out_of_range(task: TaskAdapter) -> bool:
    text = repr((task.config, dict(task.entry.bias_scales)))
    return any(x in text for x in ("1e+299", "1e+300", "1e-300", str(10**20)))


ODD = sorted(CASES.glob("lossless*"))
"""Sound bundles of a lossless task; of most the config or the modules contradict the tensors."""


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return write_base(folder / "base")


@pytest.mark.parametrize("path", ODD, ids=lambda path: path.name.partition(".")[0])
def test_a_lossless_task_that_is_no_adapter_is_no_damage(
    path: Path, folder: Path, base: Path
) -> None:
    assert verify_bundle(path).ok
    (task,) = open_bundle(path).values()
    for form, row in FORMATS.items():
        target = folder / f"{path.stem}-{form}{row.suffix}"
        options = {"base": base} if row.needs_base else {}
        if form == task.entry.format == "peft":
            export_task(task, target, format=form)
            continue
        with suppress(AlignmentError, ExportError, UsageError):
            export_task(task, target, format=form, **options)
    for read in (task.factors, lambda: task.modules, lambda: task.extras, task.state_dict):
        with suppress(ExportError):
            read()


def test_a_lossless_task_of_other_modules_gives_no_factors() -> None:
    (task,) = open_bundle(CASES / "lossless-of-other-modules.hydra.safetensors").values()
    with pytest.raises(ExportError):
        task.factors()
