"""What doctor sees, and that it says so when something is wrong."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from hydraopt.cli.main import cli
from hydraopt.inspect import doctor as module, look
from hydraopt.inspect.doctor import Symptom


def seen(base: str | None = None) -> dict[str, Symptom]:
    return {symptom.what: symptom for symptom in look(base)}


def test_here_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LITTLE", 0)  # of this machine's disk and memory
    symptoms = seen()
    assert not [x for x in symptoms.values() if x.state == "trouble"]
    assert symptoms["merge"].finding.startswith("two small adapters, there and back")
    assert f"numpy {np.__version__}" in symptoms["packages"].finding
    assert all(x.do for x in symptoms.values() if x.state == "note" and "extra" in x.what)


def test_what_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=1000", "no-such-thing>=1", 'no-such-plot; extra == "plot"']
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    symptoms = seen()
    finding = f"numpy {np.__version__} is outside >=1000; no-such-thing is not installed"
    assert (symptoms["packages"].state, symptoms["packages"].finding) == ("trouble", finding)
    assert symptoms["extra plot"] == Symptom(
        "extra plot", "note", "no-such-plot is not installed", "pip install 'hydraopt[plot]'"
    )


def test_requirements_are_those_of_the_package() -> None:
    own, plot = module._requirements(None), module._requirements("plot")
    assert "click" in [x.name for x in own]
    assert [x.name for x in plot] == ["matplotlib"]
    assert len(own) + len(plot) < len(metadata.requires("hydraopt") or ())


def test_a_merge_that_fails_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("hydraopt.merging.merge", broken)
    merged = seen()["merge"]
    assert (merged.state, merged.finding) == ("trouble", "a small merge failed: RuntimeError: no")
    assert merged.do


def test_folders_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "file"))
    harm = seen()["cache"]
    assert harm.state == "trouble"
    assert "HYDRAOPT_CACHE" in harm.do


def test_a_base_model(tmp_path: Path) -> None:
    save_file({"w": np.zeros((1000, 2000), np.float16)}, tmp_path / "model.safetensors")
    assert seen(str(tmp_path))["base"].finding == f"{tmp_path}: 1 tensors, 2 M numbers"
    missing = seen(str(tmp_path / "none"))["base"]
    assert missing.state == "trouble"
    assert missing.do


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """JSON for machines, a table for people, and an exit code for scripts."""
    monkeypatch.setattr(module, "LITTLE", 0)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["schema"] == "hydraopt.doctor/1"
    assert {"what", "state", "finding", "do"} == set(report["symptoms"][0])
    monkeypatch.setattr(module, "LITTLE", 1 << 60)
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    assert "trouble: memory:" in done.stdout
