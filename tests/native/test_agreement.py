"""The library and hydraopt accept the same files, and refuse the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.hostile import forge
from hydraopt.bundle import verify_bundle
from tests.bundle.lies import pack
from tests.bundle.test_bundle_bounds import many_digits, with_carried
from tests.bundle.test_bundle_hostile import CLAIMS
from tests.native.conftest import GOLDEN, Run
from tests.native.mutants import Pieces, sources

LINEAR = GOLDEN / "layouts" / "linear" / "bundle.hydra.safetensors"


@pytest.mark.parametrize("name", CLAIMS)
def test_hostile_files_are_refused(run: Run, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.hydra.safetensors"
    path.write_bytes(CLAIMS[name])
    done = run("verify", path)
    assert (done.returncode == 0) == verify_bundle(path).ok
    assert done.returncode == 0 or str(path) in done.stderr


def test_configs_of_many_digits_are_refused(run: Run, tmp_path: Path) -> None:
    parts, path = with_carried(), tmp_path / "x.hydra.safetensors"
    path.write_bytes(pack(parts, **many_digits(json.loads(json.dumps(parts.manifest.to_json())))))
    done = run("list", path)
    assert done.returncode == 1
    assert "too many bytes of configs" in done.stderr


@pytest.mark.parametrize(
    ("column", "value"), [("error", True), ("added", ["2026-11-26", "01234567" + 8 * "\0"])]
)
def test_values_of_another_type_are_refused(
    run: Run, tmp_path: Path, column: str, value: object
) -> None:
    pieces, path = Pieces.of(LINEAR.read_bytes()), tmp_path / "x.hydra.safetensors"
    whole = json.loads(pieces.text)
    whole["tasks"][column] = [value]
    pieces.text = json.dumps(whole, sort_keys=True).encode()
    path.write_bytes(pieces.pack())
    assert not verify_bundle(path).ok
    assert run("list", path).returncode == 1


def test_forgeries_are_judged_alike(run: Run, tmp_path: Path) -> None:
    sound, path, accepted = sources(), tmp_path / "x.hydra.safetensors", 0
    assert len(sound) > 20
    for number in range(80):
        rng = random.Random(number)
        way = rng.choice(sorted(forge.BUNDLE))
        path.write_bytes(forge.BUNDLE[way](rng.choice(sound), rng))
        ours, theirs = verify_bundle(path), run("verify", path)
        assert ours.ok == (theirs.returncode == 0), (number, way, ours.problems, theirs.stderr)
        accepted += ours.ok
    assert 0 < accepted < 60
