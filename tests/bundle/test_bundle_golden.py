"""The committed bundles are read as they were meant, and the newest is written again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from hydraopt.adapters import read_adapter
from hydraopt.bundle import open_bundle, verify_bundle
from hydraopt.codec import VERSION
from hydraopt.errors import UnsupportedVersionError
from tests.bundle.golden.make import SECOND, TENSORS, dense_records, parts, table


def test_it_says_what_it_said() -> None:
    made, bundle = parts(), open_bundle(SECOND)
    assert SECOND.stat().st_size < 4096
    assert bundle.manifest == made.manifest
    for name, expected in made.expected.items():
        for path, factors in bundle[name].factors().items():
            np.testing.assert_array_equal(factors.B, expected[path].B)
            np.testing.assert_array_equal(factors.A, expected[path].A)
    extras = bundle["fr"].extras
    assert extras["head.other"].dtype == "F16"
    for key in ("head.bias", "head.same", "head.other"):
        np.testing.assert_array_equal(extras[key].numpy(), table(2, 3, 5))


def test_bytes_by_hand() -> None:
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
    assert [stream[i] for i in (0, 1, 2, 3)] == [3, 2, 54, 42]
    assert [stream[i] for i in (8, 9, 10, 11)] == [2, 128 | 15, 1, 68]
    assert int.from_bytes(stream[23:27], "little") == zlib.crc32(stream[:23])
    assert int.from_bytes(stream[4:8], "little") == zlib.crc32(stream[27 : 27 + 42])


def test_written_again(tmp_path: Path) -> None:
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("another zlib may deflate to other bytes")
    parts().write(tmp_path / "b", library="hydraopt 0.1.0")
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


@pytest.mark.parametrize("stated", ["1", "3"])
def test_another_version_is_refused(tmp_path: Path, stated: str) -> None:
    header = SECOND.read_bytes()
    place = header.index(b'"format_version":"2"')
    path = tmp_path / "b"
    path.write_bytes(header[:place] + header[place:].replace(b'"2"', f'"{stated}"'.encode(), 1))
    with pytest.raises(UnsupportedVersionError):
        open_bundle(path)


LAYOUTS = sorted(SECOND.with_name("layouts").iterdir())
"""Folders of a bundle and of the adapter that it gives; conformance/ has the bundles too."""


@pytest.mark.parametrize("folder", LAYOUTS, ids=lambda path: path.name)
def test_an_adapter_means_what_its_bundle_says(folder: Path) -> None:
    """Read by the reader of adapters, which knows nothing of bundles."""
    (task,) = open_bundle(folder / "bundle.hydra.safetensors").values()
    adapter, own = read_adapter(folder / "adapter"), task.factors()
    # PEFT holds a fused projection as one module, of which the task changes slots 0 and 2.
    blocks = [own.get(f"h.0.qkv::{slot}") for slot in range(3)]
    zeros = np.zeros((4, 8))
    for path, module in adapter.modules.items():
        b, a = module.factors()
        whole = [own[path]] if path in own else blocks
        product = np.vstack([x.B @ x.A if x else zeros for x in whole])
        scale = max(float(np.abs(product).max()), 1e-12)
        assert np.abs(b.astype(np.float64) @ a - product).max() < 0.02 * scale
    assert folder.name == "fused" or set(adapter.modules) == set(own)
    for key, x in task.extras.items():
        factor = task.entry.bias_scales.get(key, 1.0)
        np.testing.assert_allclose(adapter.extras[key].numpy(), x.numpy() * factor, rtol=1e-3)
