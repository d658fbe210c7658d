"""A result says of which files its probes are: of all that were read."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from hydraopt.probes.reading import read_probes
from tests.probes.test_probe_files import SAMPLES


@pytest.mark.parametrize("probe", ["winobias", "winogender"])
def test_the_file_that_is_read_along_is_hashed_too(tmp_path, probe: str) -> None:
    shutil.copytree(SAMPLES / probe, tmp_path / "x")
    (source,) = read_probes([tmp_path / "x"]).sources
    other = tmp_path / "x" / source.beside.file
    assert other.name != source.file
    assert source.beside.sha256 == hashlib.sha256(other.read_bytes()).hexdigest()
    other.write_bytes(other.read_bytes() + b"\n")
    (changed,) = read_probes([tmp_path / "x"]).sources
    assert changed != source
    assert changed.sha256 == source.sha256


def test_most_probes_are_one_file() -> None:
    (source,) = read_probes([SAMPLES / "crows-pairs"]).sources
    assert source.beside is None
