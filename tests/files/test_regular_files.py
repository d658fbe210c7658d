"""Only regular files are read, without waiting, and a held one stays what it was."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hydraopt import open_bundle, read_adapter
from hydraopt.errors import AdapterFormatError, BundleFormatError, UsageError
from hydraopt.files import HeldFile, open_regular, read_regular
from hydraopt.model import read_prompts
from tests.bundle.bundles import tiny


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    """What is no regular file, by what is said of it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    return {
        "a FIFO": tmp_path / "fifo",
        "a folder": tmp_path / "folder",
        "a device": tmp_path / "zero",
    }


def test_what_is_no_regular_file_is_refused_at_once(odd: dict[str, Path]) -> None:
    started = time.monotonic()
    for what, path in odd.items():
        with pytest.raises(OSError, match=path.name) as error:
            open_regular(path)
        assert what in str(error.value)
        assert error.value.filename == os.fspath(path)
        with pytest.raises(OSError, match=path.name):
            HeldFile(path)
    assert time.monotonic() - started < 1


def test_sizes_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == b"0123456789"
    with pytest.raises(OSError, match=r"10 .* 9"):
        read_regular(path, 9)


def test_a_held_file_is_the_same_when_its_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydraopt.files.reading.AT_ONCE", 2)  # a system gives less than is asked
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"0123456789")
    held = HeldFile(path)
    other.write_bytes(b"x" * 10)
    os.replace(other, path)
    assert (held.size, held.read(2, 3), held.read(8, 5)) == (10, b"234", b"89")
    path.unlink()
    assert held.read(0, 1) == b"0"


def test_a_held_file_is_closed_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for _ in range(50):
        HeldFile(path).read(0, 1)
    assert open_at(path) == 0
    held = HeldFile(path)
    assert (held.read(0, 1), open_at(path)) == (b"x", 1)


def open_at(path: Path) -> int:
    """How many open files of this process are that one."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing is closed
            found += os.readlink(f"/proc/self/fd/{number}") == str(path)
    return found


def test_a_bundle_that_is_replaced_goes_on_being_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    tiny().write(path)
    bundle = open_bundle(path)
    tiny(("dates-de", "dates-fr")).write(path)
    assert list(open_bundle(path)) == ["dates-de", "dates-fr"]
    expected = tiny().expected
    for name in bundle:
        for module, factors in bundle[name].factors().items():
            assert (factors.B == expected[name][module].B).all()
    path.unlink()
    assert bundle["de"].factors()


def test_readers_refuse_in_their_own_words(odd: dict[str, Path], tmp_path: Path) -> None:
    for path in odd.values():
        with pytest.raises(BundleFormatError):
            open_bundle(path)
        with pytest.raises(UsageError):
            read_prompts(path)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        weights = folder / "adapter_model.safetensors"
        if not weights.exists():
            weights.write_bytes(b"\2\0\0\0\0\0\0\0{}")
        with pytest.raises(AdapterFormatError):
            read_adapter(weights)
