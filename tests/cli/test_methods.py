"""``merge --method`` and ``methods``: what a method makes is a bundle like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapter
from hydraopt.cli.main import cli
from hydraopt.methods import METHODS
from tests.cli.conftest import Run
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


def report(run: Run, *arguments: object) -> dict[str, Any]:
    result = run("merge", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_command_reads_what_hydraopt_made(run: Run, four: Path, tmp_path: Path) -> None:
    output = tmp_path / "heads.hydra.safetensors"
    options = ("--method", "hydraopt", "--heads", 2, "--rank", 8, "-o", output)
    made = report(run, f"{four}/*", *options)
    assert made["schema"] == "hydraopt.merge.method/1"
    assert (made["method"], made["options"]) == ("hydraopt", {"heads": 2, "rank": 8})
    assert made["size"] == output.stat().st_size
    errors = made["errors"]
    assert all(0 < error < 0.5 for error in errors.values())
    assert made["objective"] == pytest.approx(np.mean([e**2 for e in errors.values()]))
    # One A' and two heads of each module in fp16, and the manifest.
    stored = len(PATHS) * 2 * (8 * N + 2 * 8 * M)
    assert 0.9 * stored < made["size"] < stored + 4000
    bundle = open_bundle(output)
    for name, task in bundle.items():
        assert task.error == pytest.approx(errors[name], rel=1e-3)
    looked = json.loads(run("inspect", output, "--json").stdout)
    assert looked["size"] == made["size"]
    assert {module["worst_error"] > 0 for module in looked["modules"]} == {True}
    verified = run("verify", output, f"{four}/*", "--json")
    assert verified.exit_code == 0, verified.output
    assert {x["measured"] for x in json.loads(verified.stdout)["tasks"]} == {True}
    assert run("export", output, "a", "-o", tmp_path / "a").exit_code == 0
    back = read_adapter(tmp_path / "a").modules[PATHS[0]].factors()
    held = bundle["a"].factors()[PATHS[0]]
    assert np.allclose(back[0] @ back[1], held.B @ held.A, rtol=1e-3, atol=1e-3)
    table = run("merge", f"{four}/*", *options)
    assert "objective" in table.stdout
    assert f"{made['size']:,} bytes" in table.stdout


def test_verify_sees_other_originals(
    run: Run, four: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    output = tmp_path / "one.hydra.safetensors"
    report(run, four / "a", four / "b", "--method", "ties", "-o", output)
    other = {path: (np.ones((M, R)), np.ones((R, N))) for path in PATHS}
    make_adapter(tmp_path / "a", other)
    result = run("verify", output, tmp_path / "a", four / "b")
    assert result.exit_code == 1
    assert "the manifest says" in " ".join(result.output.split())


def test_the_exact_solver_is_no_worse(run: Run, four: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.hydra.safetensors"
    base = (f"{four}/*", "--method", "hydraopt", "--heads", 2, "--rank", 2, "-o", output)
    exact = report(run, *base, "--solver", "exact", "--option", "scales=false")
    gradient = report(run, *base, "--solver", "gradient", "--option", "steps=30")
    assert gradient["method"] == "hydraopt-gradient"
    assert exact["objective"] <= gradient["objective"] * (1 + 1e-3)
    assert open_bundle(output).recipe["options"] == {"steps": 30, "heads": 2, "rank": 2}


def test_weights_mean_what_the_method_means(run: Run, four: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.hydra.safetensors"
    base = (f"{four}/*", "--method", "hydraopt", "--heads", 1, "--rank", 2, "-o", output)
    plain, weighted = report(run, *base), report(run, *base, "--weight", "a=50")
    assert weighted["errors"]["a"] < plain["errors"]["a"]
    refused = run("merge", *base, "--weight", "x=2")
    assert (refused.exit_code, "was not found" in refused.stderr) == (2, True)
    partial = ("merge", f"{four}/*", "--method", "ties", "-o", output, "--weight", "a=2")
    refused = run(*partial)
    assert (refused.exit_code, "do not name the adapters" in refused.stderr) == (2, True)
    assert run(*partial, *(x for t in "bcd" for x in ("--weight", f"{t}=1"))).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "mean"], "unknown method"),
        (["--method", "ties", "--heads", "2"], "ties has no such option"),
        (["--method", "peft-cat", "--rank", "2"], "peft-cat has no such option"),
        (["--method", "ties", "--option", "epsilon=1"], "ties has no such option"),
        (["--method", "ties", "--option", "block=9"], "ties has no such option"),
        (["--method", "ties", "--option", "density=thick"], "cannot read density"),
        (["--method", "ties", "--option", "density=2"], "density is out of range"),
        (["--method", "ties", "--option", "density"], "is not KEY=VALUE"),
        (["--method", "ties", "--option", "lam=1", "--option", "lam=2"], "given twice"),
        (["--method", "ties", "--rank", "2", "--option", "rank=2"], "given twice"),
        (["--method", "ties", "--solver", "exact"], "no choice of solvers"),
        (["--method", "hydraopt", "--solver", "sgd"], "unknown solver"),
        (["--method", "hydraopt", "--heads", "0"], "number of heads is out of range"),
        (["--method", "hydraopt", "--heads", "5"], "expected 1 to 4"),
        (["--method", "hydraopt", "--size", "5%", "--measure", "absolute"], "--size, --measure"),
        (["--method", "hydraopt", "--fair"], "cannot be combined with --fair"),
        (["--heads", "2"], "needs --method"),
        (["--option", "lam=2"], "needs --method"),
    ],
)
def test_what_is_refused_leaves_the_output_alone(
    run: Run, four: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    output = tmp_path / "out.hydra.safetensors"
    result = run("merge", f"{four}/*", *arguments, "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert not output.exists()


def test_an_adapter_with_a_head_is_refused(run: Run, adapters: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.hydra.safetensors"
    result = run("merge", f"{adapters}/*", "--method", "average", "-o", output)
    assert (result.exit_code, output.exists()) == (2, False)
    assert "no low-rank products" in " ".join(result.stderr.split())


def test_methods_lists_the_registry(run: Run) -> None:
    rows = json.loads(run("methods", "--json").stdout)["methods"]
    assert [row["name"] for row in rows] == list(METHODS)
    ties = next(row for row in rows if row["name"] == "ties")
    assert (ties["paper"], ties["rotation_invariant"]) == ("2306.01708", True)
    assert ties["defaults"] == {"density": 0.2, "lam": 1.0, "rank": None}
    table = run("methods").stdout
    for name, row in METHODS.items():
        assert name in table
        assert row.paper.split(",")[0] in table


def test_settings_read_what_they_show() -> None:
    for row in METHODS.values():
        for name, default in row.settings.items():
            if default is not None:
                assert row.read(name, str(default)) == default
                assert type(row.read(name, str(default))) is type(default)
    assert "hydraopt" in str(cli.commands["merge"].help)
