"""Options that would do nothing are refused, before anything is read or loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--task", "de=a/de"), "--task needs --tasks"),
        (("--split", "test"), "--split needs --tasks"),
        (("--no-generate",), "--no-generate needs --tasks"),
        (("--rows", "3", "--split", "x"), "--rows, --split needs --tasks"),
    ],
)
def test_options_of_tasks_need_tasks(run: Run, bundle: Path, more, said: str) -> None:
    done = run("eval", bundle, "--base", "nowhere", "--probes", "x", *more)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("more", "got"),
    [
        (("--rows", "3"), "--rows"),
        (("--max-tokens", "30"), "--max-tokens"),
        (("--no-generate",), "--no-generate"),
        (("--rows", "3", "--max-tokens", "30"), "--rows, --max-tokens"),
    ],
)
def test_options_of_scores_need_scores(run: Run, bundle: Path, more, got: str) -> None:
    asked = "eval", bundle, "--base", "nowhere", "--tasks", "x", "--swaps", "--no-scores"
    done = run(*asked, *more)
    assert done.exit_code == 2
    assert f"--no-scores cannot be combined with {got}" in " ".join(done.stderr.split())


def test_an_adapter_has_one_task(run: Run, bundle: Path) -> None:
    names = "--task", "de=a/de", "--task", "en=a/en", "--task", "de=b/de"
    done = run("eval", bundle, "--base", "nowhere", "--tasks", "x", *names)
    assert done.exit_code == 2
    words = "--task names two tasks of one adapter [adapter de]; got a/de and b/de"
    assert words in " ".join(done.stderr.split())


def test_options_of_originals_need_originals(run: Run, bundle: Path) -> None:
    done = run("verify", bundle, "--same-base")
    assert done.exit_code == 2
    assert "ADAPTERS" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--card", "--serve"),
        ("--serve", "-o", "x.html"),
        ("--port", "8001", "-o", "x.html"),
        ("--card", "--same-base"),
        ("--card", "adapters"),
        ("--serve", "--originals", "adapters"),
    ],
)
def test_a_report_is_one_of_three(run: Run, bundle: Path, more) -> None:
    assert run("report", bundle, *more).exit_code == 2


@pytest.mark.parametrize("more", [("--modules",), ("--plot", "x.png"), ("other",)])
def test_a_list_is_of_one_bundle(run: Run, bundle: Path, more) -> None:
    assert run("inspect", bundle, "--list", *more).exit_code == 2


def test_what_is_kept_whole_needs_no_patterns(run: Run, bundle: Path) -> None:
    done = run("add", bundle, "nowhere", "--lossless", "--exact", "*bias*")
    assert done.exit_code == 2
    assert "--exact" in done.stderr
