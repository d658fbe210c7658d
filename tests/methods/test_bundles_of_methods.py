"""What a method makes is a bundle like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hydraopt import open_bundle, read_adapter
from hydraopt.cli.main import cli
from hydraopt.errors import LockedError, UsageError
from hydraopt.files import locked
from hydraopt.merging import combine
from tests.conftest import MakeAdapter

M, N, R, PATHS = 64, 96, 4, [f"l.{i}.q" for i in range(6)]
KINDS = {"a": 0, "b": 1, "c": 0, "d": 1}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    """Four adapters of two kinds, with scales, and nothing but low-rank products."""
    folder = tmp_path_factory.mktemp("four")
    for t, (name, kind) in enumerate(KINDS.items()):
        modules = {}
        for i, path in enumerate(PATHS):
            common, own = np.random.default_rng([kind, i]), np.random.default_rng([t, i, 7])
            b, a = common.standard_normal((M, R)), common.standard_normal((R, N))
            modules[path] = (0.1 * (1 + t) * b, a + 0.2 * own.standard_normal((R, N)))
        make_adapter(folder / name, modules, alpha=2 * R)
    return folder


def test_every_command_reads_what_hydraopt_made(four: Path, tmp_path: Path) -> None:
    output = tmp_path / "heads.hydra.safetensors"
    made = combine(f"{four}/*", output, "hydraopt", heads=2, rank=8)
    assert (made.method, made.options) == ("hydraopt", {"heads": 2, "rank": 8})
    assert made.size == output.stat().st_size
    errors = made.errors
    assert all(0 < error < 0.5 for error in errors.values())
    assert made.objective == pytest.approx(np.mean([e**2 for e in errors.values()]))
    # One A' and two heads of each module in fp16, and the manifest.
    stored = len(PATHS) * 2 * (8 * N + 2 * 8 * M)
    assert 0.9 * stored < made.size < stored + 4000
    bundle = open_bundle(output)
    for name, task in bundle.items():
        assert task.error == pytest.approx(errors[name], rel=1e-3)
    looked = told("inspect", output)
    assert looked["size"] == made.size
    assert {module["worst_error"] > 0 for module in looked["modules"]} == {True}
    verified = told("verify", output, f"{four}/*")
    assert {x["measured"] for x in verified["tasks"]} == {True}
    assert run("export", output, "a", "-o", tmp_path / "a").exit_code == 0
    back = read_adapter(tmp_path / "a").modules[PATHS[0]].factors()
    held = bundle["a"].factors()[PATHS[0]]
    assert np.allclose(back[0] @ back[1], held.B @ held.A, rtol=1e-3, atol=1e-3)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(x) for x in arguments])


def told(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_verify_sees_other_originals(four: Path, tmp_path: Path, make_adapter: MakeAdapter) -> None:
    output = tmp_path / "one.hydra.safetensors"
    combine([four / "a", four / "b"], output, "hydraopt", heads=1)
    make_adapter(tmp_path / "a", {path: (np.ones((M, R)), np.ones((R, N))) for path in PATHS})
    assert run("verify", output, tmp_path / "a", four / "b").exit_code == 1


def test_a_weight_brings_its_task_nearer(four: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.hydra.safetensors"
    plain = combine(f"{four}/*", output, "hydraopt", heads=1, rank=2)
    weighted = combine(f"{four}/*", output, "hydraopt", heads=1, rank=2, weights={"a": 50})
    assert weighted.errors["a"] < plain.errors["a"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mean", {}),
        ("hydraopt", {"epsilon": 1}),
        ("hydraopt", {"heads": 0}),
        ("hydraopt", {"heads": 5}),
        ("hydraopt", {"rank": 0}),
        ("hydraopt", {"rank": "two"}),
        ("hydraopt", {"weights": {"x": 2}}),
    ],
)
def test_what_is_refused_leaves_the_output_alone(
    four: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    output = tmp_path / "out.hydra.safetensors"
    with pytest.raises(UsageError):
        combine(f"{four}/*", output, method, **options)
    assert not output.exists()


def test_an_output_is_as_of_a_merge(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "apart"
    folder.mkdir()
    made = combine(f"{four}/*", folder, heads=2, rank=8)
    files = [x for x in folder.iterdir() if x.is_file()]
    assert len(files) > len(KINDS)
    assert made.size == sum(x.stat().st_size for x in files)
    assert sorted(open_bundle(folder)) == sorted(KINDS)
    module = sys.modules["hydraopt.merging.methods"]
    monkeypatch.setattr(module, "apply", None)  # it is refused before the method runs
    with pytest.raises(UsageError):
        combine(f"{four}/*", folder, heads=2, rank=8)
    file = tmp_path / "one.hydra.safetensors"
    monkeypatch.undo()
    combine(f"{four}/*", file, heads=2, rank=8)
    before = file.read_bytes()
    with locked(file), pytest.raises(LockedError):
        combine(f"{four}/*", file, heads=4, rank=8)
    assert file.read_bytes() == before
