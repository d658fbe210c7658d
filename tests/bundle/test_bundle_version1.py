"""Files of version 1 are read by a module of their own, and refused as they always were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hydraopt.bundle import open_bundle, strictjson, verify_bundle, version1
from hydraopt.bundle.opening import rules_of
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import Parts
from tests.bundle.golden.make import FIRST, SECOND
from tests.bundle.hostile.generate import pack


def first() -> Parts:
    """The tensors of the golden file of version 1."""
    bundle = open_bundle(FIRST)
    data = {name: bundle.read(name) for name in bundle.tensor_bytes}
    streams, blobs = (
        [x for name, x in data.items() if name.startswith(start)] for start in ("task/", "carried/")
    )
    return Parts(bundle.manifest, data["shared"], streams, blobs, {})


def forged(path: Path, **changes: Any) -> Path:
    packed = open_bundle(FIRST).read("manifest")
    path.write_bytes(pack(first(), **{"packed": packed, "format_version": "1", **changes}))
    return path


def read_all(path: Path) -> None:
    bundle = open_bundle(path)
    for task in bundle.values():
        task.factors()
        for tensor in task.extras.values():
            tensor.raw()


def test_what_is_not_forged_is_read(tmp_path: Path) -> None:
    path = forged(tmp_path / "b")
    read_all(path)
    assert verify_bundle(path).ok
    assert open_bundle(path).version == 1


def unsized(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


ZEROS = bytes(64 << 20)
SOUND = first()
STREAM = SOUND.streams[0]
BLOB = SOUND.blobs[0]
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a bomb for a blob": ({"blobs": [zstandard.compress(ZEROS)]}, "cannot be unpacked"),
    # A frame header that claims a terabyte: refused by what it claims.
    "a bomb for a manifest": (
        {"packed": b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"},
        "cannot be unpacked",
    ),
    "no size": ({"blobs": [unsized(zstandard.decompress(BLOB))]}, "cannot be unpacked"),
    "two frames": ({"blobs": [BLOB * 2]}, "cannot be unpacked"),
    "no zstd": ({"blobs": [b"hello"]}, "cannot be unpacked"),
    "a long stream": ({"streams": [STREAM + b"\x01" * 9, *SOUND.streams[1:]]}, "damaged stream"),
    "a short stream": ({"streams": [b"\x00", *SOUND.streams[1:]]}, "damaged stream"),
    "a long shared": ({"shared": SOUND.shared + b"\x01" * 9}, "damaged stream"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path) -> None:
    changes, words = CASES[name]
    path = forged(tmp_path / "b", **changes)
    with pytest.raises(BundleFormatError, match=words):
        read_all(path)


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("tensors", "key", "coded tensors in a file of version 1"),
        ("tasks", "harm", "harm in a file of version 1"),
        ("tasks", "curve", "harm in a file of version 1"),
    ],
)
def test_it_has_no_word_for_what_came_later(
    table: str, column: str, words: str, tmp_path: Path
) -> None:
    value = SOUND.manifest.to_json()
    value.setdefault(table, {})[column] = [] if column == "key" else {"=": None}
    packed = zstandard.compress(strictjson.dumps(value).encode())
    path = forged(tmp_path / "b", manifest=value, packed=packed)
    with pytest.raises(BundleFormatError, match=words):
        open_bundle(path)


def test_its_limits_are_wider() -> None:
    old, new = rules_of(1), rules_of(2)
    assert old is version1.RULES
    for name in ("text", "numbers", "carried"):
        assert getattr(old, name) > getattr(new, name)


def test_zstd_is_loaded_for_it_alone() -> None:
    script = (
        "import sys; from hydraopt import open_bundle; "
        "bundle = open_bundle(sys.argv[1]); [x.factors() for x in bundle.values()]; "
        "print('zstandard' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, path], check=True, capture_output=True, text=True
        ).stdout.strip()
        for path in (FIRST, SECOND)
    ]
    assert said == ["True", "False"]
