"""Methods, measures and exporters of another package, by a stand-in for an installed one."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hydraopt import merge, open_bundle
from hydraopt.cli.main import cli
from hydraopt.codec import measure_named, plugins
from hydraopt.codec.costs import MEASURES
from hydraopt.errors import PluginError, UsageError
from hydraopt.export import FORMATS, export_task, find_format
from hydraopt.merging import METHODS, combine
from hydraopt.merging.methods import method_named
from tests.conftest import MakeAdapter

CODE = """
from pathlib import Path

from hydraopt.codec.costs import Measure
from hydraopt.export.formats import ExportFormat
from hydraopt.merging import Merged, Method


def first(factors, weights=None):
    return Merged((factors[0],) * len(factors), (1.0,) * len(factors))


def write(task, target, overwrite=False, dtype="same"):
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).write_text(f"{task.name} {dtype}")


METHOD = Method("first", first)
MEASURE = Measure("mine", lost=3, projected=3, unbiased=1, output=1)
EXPORTER = ExportFormat("standin:write", frozenset({"dtype"}), ".txt")
WRONG = "neither"
"""
POINTS = """
[hydraopt.methods]
first = standin:METHOD
missing = standin:NOTHING
wrong = standin:WRONG
hydraopt = standin:WRONG
twice = standin:METHOD

[hydraopt.measures]
mine = standin:MEASURE
wrong = standin:WRONG
frobenius = standin:WRONG

[hydraopt.exporters]
text = standin:EXPORTER
nowhere = nopackage:EXPORTER
peft = standin:WRONG
"""


def install(folder: Path, name: str, points: str) -> None:
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)


@pytest.fixture(autouse=True)
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    install(site, "standin", POINTS)
    install(site, "another", "[hydraopt.methods]\ntwice = standin:WRONG\n")
    (site / "standin.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "standin", raising=False)


@pytest.fixture
def folders(make_adapter: MakeAdapter, tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        make_adapter(
            tmp_path / name, {"h.0.q": (rng.standard_normal((24, 3)), rng.standard_normal((3, 32)))}
        )
        for name in "ab"
    ]


def test_a_method_makes_a_bundle(folders: list[Path], tmp_path: Path) -> None:
    made = combine(folders, tmp_path / "x", "first")
    assert made.method == "first"
    assert made.errors["a"] < 1e-3 < made.errors["b"]


def test_a_measure_decides_a_merge(folders: list[Path], tmp_path: Path) -> None:
    merge(folders, tmp_path / "x", error=0.3, measure="mine")
    assert open_bundle(tmp_path / "x").recipe["measure"] == "mine"


def test_an_exporter_writes_tasks(folders: list[Path], tmp_path: Path) -> None:
    merge(folders, tmp_path / "x", error=0.3)
    export_task(open_bundle(tmp_path / "x")["a"], tmp_path / "a.txt", format="text")
    assert (tmp_path / "a.txt").read_text() == "a same"
    words = ["export", str(tmp_path / "x"), "--all", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*words, "--format", "text", "--dtype", "float16"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "b.txt").read_text() == "b float16"


def test_broken_entry_points_are_told(folders: list[Path], tmp_path: Path) -> None:
    for name in ("missing", "wrong", "twice"):
        with pytest.raises(PluginError):
            combine(folders, tmp_path / "x", name)
    assert not (tmp_path / "x").exists()
    with pytest.raises(PluginError):
        measure_named("wrong")
    with pytest.raises(PluginError):
        find_format("nowhere")


def test_unknown_names_are_refused_as_before(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        measure_named("none")
    with pytest.raises(UsageError):
        combine(folders, tmp_path / "x", "none")


def test_names_of_ours_are_ours_and_look_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: str) -> None:
        raise AssertionError("entry points were looked up")

    monkeypatch.setattr(metadata, "entry_points", never)
    assert [measure_named(name) for name in MEASURES] == list(MEASURES.values())
    assert [find_format(name) for name in FORMATS] == list(FORMATS.values())
    assert [method_named(name) for name in METHODS] == list(METHODS.values())


def test_names_are_listed_without_loading() -> None:
    assert {"first", "missing", "wrong"} <= set(plugins.plugin_names(plugins.METHOD_GROUP))
    assert "standin" not in sys.modules
