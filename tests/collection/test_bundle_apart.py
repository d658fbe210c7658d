"""A bundle split into a core and tasks: joined again byte for byte, and read as it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import RawTensor
from hydraopt.bundle import (
    checksum,
    is_bundle,
    join,
    open_bundle,
    pack_bundle,
    pack_carried,
    split,
    verify_bundle,
)
from hydraopt.bundle.encoding import deflate
from hydraopt.bundle.names import task_file_name
from hydraopt.errors import BundleFormatError, ChecksumError, UnsupportedVersionError, UsageError
from hydraopt.files import CORE_SUFFIX, INDEX_NAME, TASK_SUFFIX
from hydraopt.inspect import inspect_bundle
from tests.bundle.bundles import Parts, tiny
from tests.bundle.golden.make import SECOND
from tests.raising import raises


def varied() -> Parts:
    """Tasks that share a stream, a blob, a config, and have some of each of their own."""
    made = {
        key: RawTensor.from_numpy(key, np.arange(8, dtype=np.float32) + i)
        for i, key in enumerate(("a", "b"))
    }
    carried = pack_carried({"de": {"a": made["a"]}, "en": made, "fr": made})
    parts = tiny(("de", "en", "fr"), blobs=carried.blobs, data=carried.data)
    first = parts.manifest.configs[0]
    configs = (first, {**first, "r": 9}, {k: v for k, v in first.items() if k != "r"})
    tasks = [
        dataclasses.replace(x, carried=carried.tasks[x.name], config=i)
        for i, x in enumerate(parts.manifest.tasks)
    ]
    tasks.append(dataclasses.replace(tasks[0], name="zz", carried=(), config=1))
    tasks.append(dataclasses.replace(tasks[1], name="none", content=None, modules=(), errors=()))
    manifest = dataclasses.replace(parts.manifest, tasks=tuple(tasks), configs=configs)
    return dataclasses.replace(parts, manifest=manifest)


def written(path: Path) -> Path:
    varied().write(path, library="hydraopt of old")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    split(written(made / "whole.hydra.safetensors"), made / "apart")
    return made


@pytest.fixture
def apart(made: Path, tmp_path: Path) -> Path:
    """The folder of a split bundle; whole.hydra.safetensors lies beside it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "apart"


def file_of(folder: Path, task: str) -> Path:
    return folder / f"{task}{TASK_SUFFIX}"


def core_of(folder: Path) -> Path:
    (core,) = folder.glob(f"*{CORE_SUFFIX}")
    return core


@pytest.mark.parametrize("which", ["varied", "golden"])
def test_joined_it_is_what_it_was(which: str, tmp_path: Path) -> None:
    whole = SECOND if which == "golden" else written(tmp_path / "whole.hydra.safetensors")
    files = split(whole, tmp_path / "apart")
    assert [x.task for x in files] == [None, *open_bundle(whole), None]
    assert all(x.path.stat().st_size == x.size for x in files)
    folder, each = tmp_path / "apart", sorted(tmp_path.glob("apart/*"), reverse=True)
    for parts in ([folder], each, [folder, folder], [folder, *each]):
        size, tasks = join(parts, tmp_path / "joined")
        assert (tmp_path / "joined").read_bytes() == whole.read_bytes()
        assert (size, tasks) == (whole.stat().st_size, list(open_bundle(whole)))


def test_some_tasks_are_a_bundle_of_these(apart: Path, tmp_path: Path) -> None:
    parts = [core_of(apart), file_of(apart, "zz"), file_of(apart, "fr")]
    assert join(parts, tmp_path / "some")[1] == ["fr", "zz"]
    some, whole = open_bundle(tmp_path / "some"), open_bundle(apart)
    assert verify_bundle(tmp_path / "some").ok
    for name in some:
        same(some[name], whole[name])
    # As a writer that was given these alone would have written them.
    all_parts = varied()
    kept = [x for x in all_parts.manifest.tasks if x.name in ("fr", "zz")]
    streams = [all_parts.streams[x.content] for x in kept]
    blobs = sorted({i for x in kept for i in x.carried})
    tasks = tuple(
        dataclasses.replace(x, content=i, carried=tuple(blobs.index(j) for j in x.carried))
        for i, x in enumerate(kept)
    )
    manifest = dataclasses.replace(
        all_parts.manifest, tasks=tasks, blobs=tuple(all_parts.manifest.blobs[i] for i in blobs)
    )
    own = [all_parts.blobs[i] for i in blobs]
    configs = tuple(manifest.configs[x.config] for x in kept)
    tasks = tuple(dataclasses.replace(x, config=i) for i, x in enumerate(tasks))
    manifest = dataclasses.replace(manifest, tasks=tasks, configs=configs)
    pack_bundle(manifest, all_parts.shared, streams, own).write(tmp_path / "alone", library="x")
    joined = open_bundle(tmp_path / "some")
    assert joined.manifest == open_bundle(tmp_path / "alone").manifest
    sizes = [(tmp_path / x).stat().st_size for x in ("some", "alone")]
    assert sizes[0] == sizes[1] + len("hydraopt of old") - 1


def same(one: Any, other: Any) -> None:
    assert one.config == other.config
    for path, factors in one.factors().items():
        np.testing.assert_array_equal(factors.B, other.factors()[path].B)
        np.testing.assert_array_equal(factors.A, other.factors()[path].A)
    assert {k: x.raw() for k, x in one.extras.items()} == {
        k: x.raw() for k, x in other.extras.items()
    }


def test_no_task_is_a_bundle_without_tasks(apart: Path, tmp_path: Path) -> None:
    assert join([core_of(apart)], tmp_path / "none")[1] == []
    assert list(open_bundle(tmp_path / "none")) == []


@pytest.mark.parametrize("by_core", [False, True])
def test_a_folder_is_read_as_a_bundle(by_core: bool, apart: Path) -> None:
    whole = open_bundle(apart.with_name("whole.hydra.safetensors"))
    opened = open_bundle(core_of(apart) if by_core else apart)
    assert opened.manifest == whole.manifest
    assert opened.base_model == whole.base_model
    parts = [x for x in apart.iterdir() if x.name != INDEX_NAME]
    assert opened.size == sum(x.stat().st_size for x in parts)
    for name in whole:
        same(opened[name], whole[name])
    assert verify_bundle(apart).ok
    told = inspect_bundle(apart)
    assert sum(told.parts.values()) == told.size
    assert is_bundle(apart)
    assert all(is_bundle(x) and not is_bundle(x, whole=True) for x in apart.iterdir())


def test_only_what_is_asked_for_is_read(apart: Path) -> None:
    file_of(apart, "fr").unlink()
    opened = open_bundle(apart)
    assert "fr" not in opened
    before = opened.bytes_read
    opened["en"].factors()
    core, file = opened["en"].contents.files
    own = file.header + file.sizes["manifest"] + file.sizes["task/0"]
    assert opened.bytes_read == before + core.sizes["shared"] + own


def test_tasks_of_another_core(apart: Path, tmp_path: Path) -> None:
    other = tiny(("de", "new"), seed=9)
    other.write(tmp_path / "other")
    split(tmp_path / "other", tmp_path / "second")
    stray = file_of(tmp_path / "second", "new")
    words = r"belongs to another core.*new\.task\.safetensors.*whole\.core\.safetensors"
    with pytest.raises(BundleFormatError, match=words):
        join([apart, stray], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copy(stray, apart)
    with pytest.raises(BundleFormatError, match=words):
        open_bundle(apart)
    # Who names the core means its tasks.
    assert "new" not in open_bundle(core_of(apart))
    with raises(BundleFormatError, got="whole.core.safetensors", expected="NAME.core.safetensors"):
        join([apart, core_of(tmp_path / "second")], tmp_path / "out")


def test_what_is_no_part(apart: Path, tmp_path: Path) -> None:
    whole = apart.with_name("whole.hydra.safetensors")
    with raises(BundleFormatError, file="fr.task.safetensors", expected="NAME.core.safetensors"):
        join([file_of(apart, "fr")], tmp_path / "out")
    with raises(
        BundleFormatError, file="whole.hydra.safetensors", got="hydraopt", expected="hydraopt-core"
    ):
        join([apart, whole], tmp_path / "out")
    with raises(BundleFormatError, file="fr.task.safetensors"):
        open_bundle(file_of(apart, "fr"))
    (tmp_path / "empty").mkdir()
    with raises(BundleFormatError, file="empty", expected="NAME.core.safetensors"):
        open_bundle(tmp_path / "empty")
    with raises(BundleFormatError, file="nowhere"):
        open_bundle(tmp_path / "nowhere")


def test_the_target_of_a_split(apart: Path) -> None:
    whole = apart.with_name("whole.hydra.safetensors")
    (apart / "notes").write_text("mine")
    with raises(UsageError, file="apart"):
        split(whole, apart)
    tiny(("new",)).write(whole)
    with raises(UsageError, file="apart"):
        split(whole, apart, overwrite=True)
    split(whole, apart, overwrite=True, another_core=True)
    assert list(open_bundle(apart)) == ["new"]
    assert (apart / "notes").read_text() == "mine"


def test_names_that_file_systems_confuse(tmp_path: Path) -> None:
    names = sorted(["Task", "task", "TASK", "ü" * 180])
    tiny(names).write(tmp_path / "b")
    files = split(tmp_path / "b", tmp_path / "apart")
    assert len({x.path.name.casefold() for x in files}) == 6
    assert all(len(x.path.name.encode()) < 240 for x in files)
    join([tmp_path / "apart"], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "b").read_bytes()


def forged(path: Path, manifest: Any = None, **metadata: Any) -> None:
    """Another manifest or header in a part, with checksums that agree."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    about = header.pop("__metadata__")
    pieces = {k: body[slice(*x["data_offsets"])] for k, x in header.items()}
    if manifest is not None:
        pieces["manifest"] = deflate(json.dumps(manifest).encode())
    about["checksums"] = json.dumps([checksum(x) for x in pieces.values()], separators=(",", ":"))
    head: dict[str, Any] = {"__metadata__": {**about, **metadata}}
    at = 0
    for name, piece in pieces.items():
        head[name] = {"dtype": "U8", "shape": [len(piece)], "data_offsets": [at, at + len(piece)]}
        at += len(piece)
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(pieces.values()))


ROW = {"name": ["de"], "content": [0], "errors": ["AAAA"]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"tasks": ROW, "modules": {"path": []}}, "unknown keys of a task"),
        ({"tasks": ROW, "blobs": [], "configs": []}, "configs of a task"),
        ({"tasks": ROW, "blobs": [], "configs": [{}, {}]}, "configs of a task"),
        ({"tasks": ROW, "configs": [{"drop": ["x"]}]}, "config drops settings"),
        ({"tasks": {**ROW, "config": [1]}}, "config that is not there"),
        ({"tasks": {**ROW, "content": [1]}}, "numbered from 0"),
        ({"tasks": {**ROW, "modules": [[0, 9]]}}, "ranges"),
        ({"tasks": {"name": []}}, "tasks of a task file"),
        ({"tasks": {"name": ["a", "b"]}}, "errors of task"),
        ([], "not an object"),
    ],
)
def test_a_task_file_that_lies(value: Any, words: str, apart: Path) -> None:
    forged(file_of(apart, "de"), value)
    with pytest.raises(BundleFormatError, match=words) as caught:
        open_bundle(apart)
    assert str(caught.value.file).endswith("de.task.safetensors")


def test_a_core_that_lies(apart: Path) -> None:
    sound = core_of(apart).read_bytes()
    for value, words in (
        ({"tasks": {"name": []}}, "unknown keys of a core"),
        ({"modules": {"path": []}, "configs": [{}, {}]}, "configs of a core"),
        ([], "not an object"),
    ):
        core_of(apart).write_bytes(sound)
        forged(core_of(apart), value)
        with pytest.raises(BundleFormatError, match=words):
            open_bundle(core_of(apart))
    core_of(apart).write_bytes(sound)
    forged(core_of(apart), format_version="1")
    with pytest.raises(UnsupportedVersionError):
        open_bundle(apart)


def test_metadata_that_lies(apart: Path) -> None:
    path = file_of(apart, "de")
    sound = path.read_bytes()
    forged(path, more="x")
    with raises(BundleFormatError, file="de.task.safetensors", got="more"):
        open_bundle(apart)
    damaged = bytearray(sound)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    opened = open_bundle(apart)
    with raises(ChecksumError, file="de.task.safetensors"):
        opened["de"].extras["a"].raw()
    assert not verify_bundle(apart).ok


@pytest.mark.slow
def test_many_tasks_of_many_modules_are_too_many(tmp_path: Path) -> None:
    """Each file is small; together they stand for more than their bytes warrant."""
    from tests.bundle.bundles import tiny_modules

    tiny(("de",), modules=tiny_modules(3), shared=False).write(tmp_path / "b")
    split(tmp_path / "b", tmp_path / "apart")
    core, count = core_of(tmp_path / "apart"), 60_000
    table = {"path": [f"m{i}" for i in range(count)], "m": {"=": 9}, "n": {"=": 9}}
    forged(core, {"modules": table, "base_model": "org/tiny"})
    first = file_of(tmp_path / "apart", "de")
    length = int.from_bytes(core.read_bytes()[:8], "little")
    text = json.loads(core.read_bytes()[8 : 8 + length])["__metadata__"]["checksums"]
    from hydraopt.bundle.parts import core_id

    errors = "A" * (count * 4 // 3)
    for name in ("de", "en", "fr", "it", "nl", "pl", "pt", "sv", "tr", "uk"):
        shutil.copy(first, tmp_path / "x")
        row = {"name": [name], "content": [0], "errors": [errors]}
        forged(tmp_path / "x", {"tasks": row}, core=core_id(text))
        shutil.copy(tmp_path / "x", file_of(tmp_path / "apart", name))
    with pytest.raises(BundleFormatError):
        open_bundle(tmp_path / "apart")


def test_names_that_look_alike_have_files_of_their_own() -> None:
    taken: set[str] = set()
    files = [task_file_name(name, taken) for name in ("\u00e9", "e\u0301", "\u00c9")]
    assert len({unicodedata.normalize("NFC", file).casefold() for file in files}) == 3
