"""Options that would do nothing are refused, before anything is read or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.raising import check_refused


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (("--task", "de=a/de"), {"names": "--task"}),
        (("--split", "test"), {"names": "--split"}),
        (("--no-generate",), {"names": "--no-generate"}),
        (("--max-tokens", "3", "--split", "x"), {"names": "--max-tokens"}),
    ],
)
def test_options_of_tasks_need_tasks(run: Run, bundle: Path, more, facts: dict[str, Any]) -> None:
    done = run("eval", bundle, "--base", "nowhere", "--probes", "x", *more)
    assert done.exit_code == 2
    check_refused(done, **facts)


def test_options_of_originals_need_originals(run: Run, bundle: Path) -> None:
    done = run("verify", bundle, "--same-base")
    assert done.exit_code == 2
    check_refused(done, names="--same-base")


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--card", "--serve"),
        ("--serve", "-o", "x.html"),
        ("--port", "8001", "-o", "x.html"),
        ("--card", "--same-base"),
        ("--card", "adapters"),
        ("--serve", "--port", "0", "--force"),
        ("--card", "--force"),
        ("--same-base", "-o", "x.html"),
    ],
)
def test_a_report_is_one_of_three(run: Run, bundle: Path, more) -> None:
    assert run("report", bundle, *more).exit_code == 2


@pytest.mark.parametrize("option", ["--same-base", "--skip-unreadable"])
@pytest.mark.parametrize("more", [(), ("--list",), ("other",)])
def test_options_of_adapters_do_not_fit_a_bundle(run: Run, bundle: Path, option, more) -> None:
    paths = [bundle if word == "other" else word for word in more]
    done = run("inspect", bundle, *paths, option)
    assert done.exit_code == 2
    assert option in done.stderr


def test_a_preview_of_a_refresh_refuses_an_option_of_originals(run: Run, bundle: Path) -> None:
    done = run("refresh", bundle, "--same-base")
    assert done.exit_code == 2
    assert all(x in done.stderr for x in ("--same-base", "ADAPTERS"))


@pytest.mark.parametrize("more", [("--modules",), ("--plot", "x.png"), ("other",)])
def test_a_list_is_of_one_bundle(run: Run, bundle: Path, more) -> None:
    assert run("inspect", bundle, "--list", *more).exit_code == 2


def test_what_is_kept_whole_needs_no_patterns(run: Run, bundle: Path) -> None:
    done = run("add", bundle, "nowhere", "--lossless", "--exact", "*bias*")
    assert done.exit_code == 2
    check_refused(done, names="--lossless")
