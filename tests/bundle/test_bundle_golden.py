"""The committed bundle is read as it was meant, and written again byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from hydraopt.bundle import (
    Manifest,
    bounds,
    open_bundle,
    reader,
    verify_bundle,
    write_bundle,
    writer,
)
from hydraopt.coding.stream import StreamReader
from hydraopt.coding.version import VERSION
from hydraopt.errors import UnsupportedVersionError
from tests.bundle.golden.make import PATH, parts, table


def test_it_says_what_it_said() -> None:
    made, bundle = parts(), open_bundle(PATH)
    assert PATH.stat().st_size < 4096
    assert bundle.manifest == made.manifest
    for name, expected in made.expected.items():
        for path, factors in bundle[name].factors().items():
            np.testing.assert_array_equal(factors.B, expected[path].B)
            np.testing.assert_array_equal(factors.A, expected[path].A)
    extras = bundle["fr"].extras
    assert list(extras) == ["head.bias", "head.same", "head.weight"]
    assert extras["head.weight"].dtype == "F16"
    for tensor in extras.values():
        np.testing.assert_array_equal(tensor.numpy(), table(2, 3, 5))


def test_bytes_by_hand() -> None:
    """The container, taken apart without hydraopt."""
    data = PATH.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert list(header) == [
        "__metadata__", "manifest", "shared", "task/0", "task/1", "carried/0"
    ]  # fmt: skip
    assert header["__metadata__"]["format_version"] == "1"
    begin, end = header["manifest"]["data_offsets"]
    manifest = json.loads(zstandard.decompress(data[8 + length + begin : 8 + length + end]))
    assert manifest["modules"] == {
        "path": ["h.0.q", "h.0.v", "conv"],
        "kind": ["linear", "linear", "conv"],
        "m": [6, 5, 4],
        "n": [8, 8, 18],
        "a_tail": [[], [], [3, 3]],
    }
    assert manifest["tasks"]["content"] == [0, 1, 0]
    assert manifest["configs"][1] == {"set": {"lora_alpha": 8, "use_rslora": True}}


def test_written_again(tmp_path: Path) -> None:
    if zstandard.ZSTD_VERSION[:2] != (1, 5):
        pytest.skip("another zstd may compress to other bytes")
    write_bundle(tmp_path / "b", *parts().args, library="hydraopt 0.1.0")
    assert (tmp_path / "b").read_bytes() == PATH.read_bytes()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> int:
    """A library that writes the next version of the format."""
    for module in (reader, writer):
        monkeypatch.setattr(module, "VERSION", VERSION + 1)
    return VERSION + 1


def test_a_newer_library_reads_it(newer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every decoder is told that the file is of version 1, not of the newest."""
    told = []

    class Reader(StreamReader):
        def __init__(self, data: bytes, version: int, spend: Any) -> None:
            told.append(("stream", version))
            super().__init__(data, version, spend)

    def from_json(value: object, version: int) -> Manifest:
        told.append(("manifest", version))
        return real_manifest(value, version)

    def unpack(blob: object, data: bytes, source: Path, version: int) -> object:
        told.append(("carried", version))
        return real_unpack(blob, data, source, version)

    real_manifest, real_unpack = Manifest.from_json, reader.unpack_blob
    monkeypatch.setattr(bounds, "StreamReader", Reader)
    monkeypatch.setattr(reader.Manifest, "from_json", from_json)
    monkeypatch.setattr(reader, "unpack_blob", unpack)
    test_it_says_what_it_said()
    assert {what for what, _ in told} == {"stream", "manifest", "carried"}
    assert {version for _, version in told} == {1}
    assert open_bundle(PATH).version == 1
    assert verify_bundle(PATH).ok


def test_what_a_newer_library_writes_is_refused_by_an_older_one(
    newer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "b", *parts().args)
    assert open_bundle(tmp_path / "b").version == newer
    monkeypatch.setattr(reader, "VERSION", 1)
    with pytest.raises(UnsupportedVersionError, match="got format version 2, expected at most 1"):
        open_bundle(tmp_path / "b")
