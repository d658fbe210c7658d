"""The committed bundle is read as it was meant, and written again byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from hydraopt.bundle import open_bundle, write_bundle
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
