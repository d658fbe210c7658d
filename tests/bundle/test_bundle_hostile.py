"""No bundle that lies is believed, and none makes the reader allocate what it claims."""

from __future__ import annotations

import copy
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import RawTensor
from hydraopt.bundle.carried import pack_carried
from hydraopt.bundle.spec import Manifest
from hydraopt.collection.opening import open_bundle, verify_bundle
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import Parts, tiny
from tests.bundle.hostile.generate import Case, generate, pack


def parts_with_blob() -> Parts:
    extras = {
        key: RawTensor.from_numpy(key, np.arange(count, dtype=np.float32))
        for key, count in (("head.bias", 4), ("head.weight", 8))
    }
    carried = pack_carried({"de": extras, "en": extras})
    return tiny(("de", "en"), blobs=carried.blobs, data=carried.data, carried=(0,))


CASES = list(generate(parts_with_blob()))


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


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_refused(tmp_path: Path, case: Case) -> None:
    _, data, error, words = case
    path = tmp_path / "hostile"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error, match=words) as caught:
        read_all(path)
    assert isinstance(caught.value, BundleFormatError)
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
