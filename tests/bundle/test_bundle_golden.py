"""The committed bundles are read as they were meant, and the newest is written again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard

from hydraopt.bundle import (
    open_bundle,
    verify_bundle,
    write_bundle,
    writer,
)
from hydraopt.coding import version
from hydraopt.coding.version import VERSION
from hydraopt.errors import UnsupportedVersionError
from tests.bundle.golden.make import FIRST, SECOND, TENSORS, dense_records, parts, table


def test_it_says_what_it_said() -> None:
    made, bundle = parts(dense=False), open_bundle(FIRST)
    assert FIRST.stat().st_size < 4096
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
    data = FIRST.read_bytes()
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


def test_bytes_of_version_2_by_hand() -> None:
    """Deflate and a table of chunks, taken apart without hydraopt."""
    data = SECOND.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert list(header) == [
        "__metadata__", "manifest", "shared", "task/0", "task/1", "carried/0"
    ]  # fmt: skip
    assert list(header["__metadata__"]) == [
        "format", "format_version", "base_model", "tasks", "library", "checksums"
    ]  # fmt: skip
    begin, end = header["manifest"]["data_offsets"]
    packed = data[8 + length + begin : 8 + length + end]
    text = zlib.decompress(packed[4:])
    assert len(text) == int.from_bytes(packed[:4], "little")
    assert json.loads(text)["tensors"]["key"] == ["head.weight", "ia3_l", "rows"]
    begin, end = header["task/1"]["data_offsets"]
    stream = data[8 + length + begin : 8 + length + end]
    # Three chunks of two records each; 143 numbers take two bytes.
    assert [stream[i] for i in (0, 1, 2, 3)] == [3, 2, 54, 49]
    assert [stream[i] for i in (8, 9, 10, 11)] == [2, 128 | 15, 1, 86]
    assert int.from_bytes(stream[23:27], "little") == zlib.crc32(stream[:23])
    assert int.from_bytes(stream[4:8], "little") == zlib.crc32(stream[27 : 27 + 49])


def test_written_again(tmp_path: Path) -> None:
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("another zlib may deflate to other bytes")
    write_bundle(tmp_path / "b", *parts().args, library="hydraopt 0.1.0")
    assert (tmp_path / "b").read_bytes() == SECOND.read_bytes()


def test_coded_tensors_are_what_they_were() -> None:
    commons, records = dense_records()
    bundle = open_bundle(SECOND)
    assert bundle.version == VERSION
    assert bundle.manifest == parts().manifest
    extras = bundle["fr"].extras
    references = [commons[0].values(np.zeros((24, 3))), np.ones((8, 1)), np.zeros((40, 2))]
    for entry, record, reference in zip(TENSORS, records, references, strict=True):
        values = record.values(reference)
        expected = (values.T if entry.key == "head.weight" else values).reshape(entry.shape)
        got = extras[entry.key]
        assert (got.dtype, got.shape) == (entry.dtype, entry.shape)
        np.testing.assert_allclose(got.numpy(), expected, rtol=2**-8)
    # Rows that are not named are exactly what means no change.
    assert np.count_nonzero(extras["rows"].numpy().any(axis=1)) == 3
    assert set(bundle["de"].extras) == set()
    assert bundle["fr"].extra_kinds["rows"] == "token_rows"
    assert verify_bundle(SECOND).ok


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> int:
    """A library that writes the next version of the format."""
    for module in (version, writer):
        monkeypatch.setattr(module, "VERSION", VERSION + 1)
    return VERSION + 1


def test_a_newer_library_reads_it(newer: int) -> None:
    assert newer > VERSION
    test_it_says_what_it_said()
    test_coded_tensors_are_what_they_were()
    assert (open_bundle(FIRST).version, open_bundle(SECOND).version) == (1, 2)
    assert verify_bundle(FIRST).ok


def test_what_a_newer_library_writes_is_refused_by_an_older_one(
    newer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "b", *parts().args)
    assert open_bundle(tmp_path / "b").version == newer
    monkeypatch.setattr(version, "VERSION", VERSION)
    with pytest.raises(UnsupportedVersionError, match="got format version 3, expected at most 2"):
        open_bundle(tmp_path / "b")
