"""No bundle that lies is believed, and none makes the reader allocate what it claims."""

from __future__ import annotations

import copy
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import RawTensor
from hydraopt.bundle import Manifest, open_bundle, pack_carried, verify_bundle
from hydraopt.bundle.encoding import deflate
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import Parts, tiny
from tests.bundle.lies import pack, promise


def parts_with_blob() -> Parts:
    extras = {
        key: RawTensor.from_numpy(key, np.arange(count, dtype=np.float32))
        for key, count in (("head.bias", 4), ("head.weight", 8))
    }
    carried = pack_carried({"de": extras, "en": extras})
    return tiny(("de", "en"), blobs=carried.blobs, data=carried.data, carried=(0,))


def read_all(path: Path) -> None:
    bundle = open_bundle(path)
    for name in bundle:
        task = bundle[name]
        task.factors()
        for tensor in task.extras.values():
            tensor.raw()


def test_the_start_of_all_cases_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(pack(parts_with_blob()))
    read_all(path)
    assert verify_bundle(path).ok


def _manifest(*path: Any, to: Any) -> bytes:
    """Return the sound bundle with one node of its manifest exchanged."""
    value = parts_with_blob().manifest.to_json()
    inner: Any = value
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return pack(parts_with_blob(), manifest=value)


def _wide(head: dict[str, Any]) -> None:
    head["shared"]["shape"] = [1 << 62, 4]


def _vast() -> bytes:
    """Return modules of 2^24 x 2^24 and a stream that claims 2^23 parts of each."""
    parts = parts_with_blob()
    value = parts.manifest.to_json()
    value["modules"]["m"] = value["modules"]["n"] = {"=": 1 << 24}
    streams = [promise(1 << 23, len(parts.manifest.modules))] * len(parts.streams)
    return pack(parts, manifest=value, shared=b"", streams=streams)


def _claims() -> dict[str, bytes]:
    """Return files that claim what they do not have; conformance/ has the others that lie."""
    parts = parts_with_blob()
    sound, blob = pack(parts), parts.blobs[0]
    claim = b"\xff\xff\xff\xff" + zlib.compress(b"{}")
    longer = [parts.streams[0] + b"\x01" * 9, *parts.streams[1:]]
    cases = {
        "a header of 2^62 bytes": (1 << 62).to_bytes(8, "little") + sound[8:],
        "a tensor of 2^64 bytes": pack(parts, header=_wide),
        "a manifest of 4 GiB": pack(parts, packed=claim),
        "a manifest of brackets": pack(parts, packed=deflate(b"[" * 100_000)),
        "a manifest elsewhere": pack(parts, names=["shared", "manifest", "task/0", "task/1", "x"]),
        "an extra blob": pack(parts, blobs=[*parts.blobs, b"x"]),
        "a blob that unpacks to 16 MiB": pack(parts, blobs=[deflate(bytes(1 << 24))]),
        "a blob followed by a stream": pack(parts, blobs=[blob + zlib.compress(b"")]),
        "a blob without a size": pack(parts, blobs=[b"\1\2\3"]),
        "a long stream": pack(parts, streams=longer),
        "a long shared stream": pack(parts, shared=parts.shared + b"\1" * 9),
        "a short shared stream": pack(parts, shared=b"\0"),
        "a vast module": _vast(),
        "an m of 2^70": _manifest("modules", "m", to=[1 << 70] * 3),
        "a tensor of 2^41 numbers": _manifest("blobs", 0, "shape", to=[[1 << 41]] * 2),
        "a tensor of 2^60 numbers": _manifest("blobs", 0, "shape", to=[[1 << 30, 1 << 30]] * 2),
        "ranges that fall": _manifest("tasks", "modules", to={"=": [1, 0]}),
        "no version": pack(parts, format_version=None),
        "a version in words": pack(parts, format_version="one"),
    }  # fmt: skip
    cases |= {f"cut at {i}": sound[:i] for i in (0, 5, 8, 100, len(sound) // 2, len(sound) - 1)}
    for name in ("../up", "a\\b", "..", "a\n", "\u202eab"):
        cases[f"a task named {name!r}"] = _manifest("tasks", "name", to=["a", name])
    return cases


CLAIMS = _claims()


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_file_claims_is_refused_before_it_is_allocated(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(CLAIMS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleFormatError):
        read_all(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 << 10, f"{grown >> 10} MiB were allocated on the way"
    assert not verify_bundle(path).ok


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Only bytes of the header can change anything and go unnoticed: the library's name."""
    sound = pack(parts_with_blob(), library="hydraopt 0")
    place = sound.index(b"hydraopt 0")
    path = tmp_path / "flipped"
    rng = np.random.default_rng(0)
    for at in rng.choice(len(sound), 100, replace=False).tolist():
        flipped = bytearray(sound)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        if place <= at < place + 10:
            continue
        with pytest.raises(BundleFormatError):
            read_all(path)


def test_a_file_that_changes_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(pack(parts_with_blob()))
    bundle = open_bundle(path)
    path.write_bytes(pack(tiny(("de",))))
    with pytest.raises(BundleFormatError):
        bundle["de"].factors()


JUNK = [None, True, -1, 0, 1 << 70, 0.5, "", "x", "\x00", [], [[]], {}, {"=": 1}, {"=": []}, ["x"]]


def test_no_manifest_raises_anything_else() -> None:
    """Any node of the manifest exchanged for junk: BundleFormatError, or a manifest that is one."""
    sound = parts_with_blob().manifest.to_json()
    sound["tasks"]["keys"] = [[[0, "A", "k"]], []]
    sound["tasks"]["bias_scales"] = [{"head.bias": 2.0}, {}]
    sound["tasks"]["extra_kinds"] = {"=": {"head.bias": "lora_bias"}}
    sound["tasks"]["harm"] = [[1, 8, 0.1, 0.2, True], None]
    sound["configs"].append({"set": {"r": 2}, "drop": ["r"]})
    accepted = 0
    for place in places(sound):
        for junk in JUNK:
            value = copy.deepcopy(sound)
            inner: Any = value
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = junk
            try:
                Manifest.from_json(value).check_canonical()
            except BundleFormatError:
                continue
            accepted += 1
    assert accepted < 0.3 * len(JUNK) * len(list(places(sound)))


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to all nodes of a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (key,)
            yield from ((key, *rest) for rest in places(value[key]))
