"""What was measured of answers: what inspect, an export and a shrink make of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hydraopt.bundle import Harm, open_bundle
from tests.bundle.bundles import remade
from tests.cli.conftest import Run
from tests.marks import slow

HELD = Harm(changed=3, answers=48, likely=0.0471, kl=0.0123, held_out=True)
FITTED = Harm(changed=1, answers=1, likely=1.0, kl=2.5, held_out=False)
COLUMNS = ("answers that change", "likely", "KL an answer", "seen by a refit")


@pytest.fixture(scope="module")
def measured(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three tasks, two were measured."""
    path = tmp_path_factory.mktemp("measured") / "m.hydra.safetensors"
    return remade(open_bundle(bundle), path, de={"harm": HELD}, fr={"harm": FITTED})


def test_inspect_shows_what_was_measured(run: Run, measured: Path) -> None:
    result = run("inspect", measured)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for row in (
        f"task {' '.join(COLUMNS)}",
        "de 3 of 48 4.71 % 0.0123 nats no",
        "en - - - -",
        "fr 1 of 1 100.00 % 2.5 nats some",
    ):
        assert lines.count(row) == 1, row


def test_inspect_json(run: Run, measured: Path) -> None:
    tasks = {x["name"]: x for x in json.loads(run("inspect", measured, "--json").stdout)["tasks"]}
    assert tasks["de"]["harm"] == dataclasses.asdict(HELD)
    assert tasks["en"]["harm"] is None
    assert tasks["fr"]["harm"] == dataclasses.asdict(FITTED)


def card(run: Run, bundle: Path, task: str, out: Path) -> str:
    result = run("export", bundle, task, "-o", out, "--force")
    assert result.exit_code == 0, result.output
    return (out / "README.md").read_text()


def test_a_card_of_another_author_stays(run: Run, measured: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("My thesis, and hydraopt.\n")
    assert card(run, measured, "de", tmp_path) == "My thesis, and hydraopt.\n"
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert run("export", measured, "de", "-o", tmp_path, "--force").exit_code == 0
    assert (tmp_path / "README.md").is_dir()


@pytest.mark.parametrize("limit", [slow(("--size", "15%")), ("--error", "0.3")])
def test_a_shrink_drops_the_harm(
    run: Run, measured: Path, tmp_path: Path, limit: tuple[str, str]
) -> None:
    result = run("shrink", measured, "-o", tmp_path / "small", *limit)
    assert result.exit_code == 0, result.output
    tasks = open_bundle(tmp_path / "small").manifest.tasks
    assert [x.harm for x in tasks] == [None] * 3


def test_the_card_of_an_export(run: Run, measured: Path, tmp_path: Path) -> None:
    text = card(run, measured, "de", tmp_path / "out")
    assert text.startswith("---\n")
    assert "library_name: peft\ntags:\n- hydraopt\n---\n\n# de\n" in text
    error = open_bundle(measured)["de"].error
    assert f"relative error of its weights is {error:.4g}" in text
    assert (
        "Of the original adapter's answers to 48 prompts that no part was trained on, 3 change; "
        "4.71 % are likely to. KL from the original is 0.0123 nats an answer. Of "
        "an answer the first 128 tokens count.\n"
    ) in text
    # The card of another task takes its place.
    text = card(run, measured, "fr", tmp_path / "out")
    assert "1 prompt that parts of it were trained on, 1 changes; 100.00 %" in text
    assert " % are likely" not in card(run, measured, "en", tmp_path / "out")
