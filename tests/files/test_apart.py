"""Outputs that are, hold or lie in what is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, shrink
from hydraopt.errors import UsageError
from hydraopt.export import FORMATS, export_task
from hydraopt.files import check_apart
from hydraopt.merging import combine
from tests.merging.merge_cases import modules_of


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    os.link(tmp_path / "in" / "file", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "given"),
    [
        ("in/file", "in/file"),
        ("in/../in/file", "in/file"),
        ("link/file", "in/file"),
        ("hard", "in/file"),
        ("in/new", "in"),
        ("link/deep/new", "in"),
        ("in", "in/file"),
        ("link", "in/deep"),
        (".", "in"),
    ],
)
def test_what_is_not_apart(place: Path, output: str, given: str) -> None:
    with pytest.raises(UsageError):
        check_apart(place / output, [place / given])


@pytest.mark.parametrize(
    ("output", "given"),
    [("s3://b/a", "s3://b/a"), ("s3://b/a/file", "s3://b/a"), ("s3://b/a", "s3://b/a/file")],
)
def test_addresses_that_are_not_apart(output: str, given: str) -> None:
    with pytest.raises(UsageError):
        check_apart(output, ["x", given])
    check_apart("s3://b/a2", [given, "s3://b/other"])


def test_what_is_apart(place: Path) -> None:
    check_apart(place / "in" / "other", [place / "in" / "file", place / "in" / "deep"])
    check_apart(place / "new", [place / "in"])
    check_apart(place / "in2", [place / "in", place / "nowhere"])


@pytest.fixture
def folders(make_adapter: Callable[..., Path], tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / name, modules_of(i)) for i, name in enumerate("ab")]


def test_merge_shrink_and_methods_write_elsewhere(folders: list[Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    for output in (folders[0] / "adapter_model.safetensors", folders[1] / "new"):
        with pytest.raises(UsageError):
            merge(folders, output, error=0.2)
        with pytest.raises(UsageError):
            combine(folders, output, heads=1)
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before
    bundle = tmp_path / "bundle"
    merge(folders, bundle, error=0.1)
    os.link(bundle, tmp_path / "hard")
    whole = bundle.read_bytes()
    for output in (bundle, tmp_path / "hard"):
        with pytest.raises(UsageError):
            shrink(bundle, output, size="30%")
    assert bundle.read_bytes() == whole


@pytest.mark.parametrize("name", FORMATS)
def test_no_export_takes_the_place_of_what_it_reads(
    name: str, folders: list[Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    merge(folders, home / "bundle.hydra.safetensors", error=0.1)
    task = open_bundle(home / "bundle.hydra.safetensors")["a"]
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    bases = {"base": base} if FORMATS[name].needs_base else {}
    outputs = [home / "bundle.hydra.safetensors" if FORMATS[name].suffix else home]
    outputs += [base, base / "new"] if bases else []
    for output in outputs:
        if output == base and FORMATS[name].suffix:
            continue
        with pytest.raises(UsageError):
            export_task(task, output, format=name, overwrite=True, **bases)
    assert sorted(path.name for path in base.iterdir()) == ["config.json"]
    assert open_bundle(home / "bundle.hydra.safetensors")["a"].factors()
