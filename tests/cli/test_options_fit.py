"""Options that do not fit, values that cannot be, and outputs that are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hydraopt import merge
from hydraopt.cli.options import MergeRequest
from hydraopt.errors import UsageError
from hydraopt.evaluate import read_compared
from tests.cli.conftest import Run
from tests.raising import check_refused


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (("--prompts", "one"), {"names": "--prompts"}),
        (("--refit",), {"names": "--refit"}),
        (("--base", "b", "--prompts", "one", "--prompts", "two"), {"names": "--prompts"}),
        (("--base", "b", "--prompts", "de=x", "--prompts", "de=y"), {"names": "--prompts"}),
        (("--base", "b", "--prompts", "one", "--harm", "1"), {"got": "'1'"}),
        (
            ("--base", "b", "--prompts", "one", "--harm", "1%", "--size", "5%"),
            {"got": "size, harm"},
        ),
        (("--base", "b", "--prompts", "fr=x", "--harm", "1%"), {"got": "fr", "expected": "de, en"}),
    ],
)
def test_a_merge_refuses(
    run: Run, adapters: Path, tmp_path: Path, more, facts: dict[str, Any]
) -> None:
    done = run("merge", adapters / "de", adapters / "en", *more, "-o", tmp_path / "x")
    assert done.exit_code == 2, done.output
    check_refused(done, **facts)
    assert not (tmp_path / "x").exists()


def test_a_wrong_base_is_no_problem_of_the_bundle(run: Run, bundle: Path) -> None:
    done = run("verify", bundle, "--base", "nowhere")
    assert done.exit_code == 2
    assert "problem:" not in done.output


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (("--answers", "3", "--no-generate", "--tasks", "x"), {"names": "--answers"}),
        (("--probes", "x", "--max-tokens", "3"), {"names": "--max-tokens"}),
        (("--tasks", "x", "--rows", "0"), {"names": "--rows"}),
    ],
)
def test_an_evaluation_refuses(run: Run, bundle: Path, more, facts: dict[str, Any]) -> None:
    done = run("eval", bundle, "--base", "nowhere", *more)
    assert done.exit_code == 2
    check_refused(done, **facts)


def test_an_evaluation_replaces_no_file_of_others(run: Run, bundle: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    asked = "eval", bundle, "--base", "nowhere", "--tasks", tmp_path, "-o"
    check_refused(run(*asked, bundle), UsageError, file="three.hydra.safetensors")
    check_refused(run(*asked, tmp_path), UsageError)
    check_refused(run(*asked, tmp_path / "none" / "x"))
    other = tmp_path / "x.json"
    other.write_text("{}")
    check_refused(run(*asked, other), UsageError, file="x.json")
    # A result may be replaced, and then the base is what is missing.
    other.write_text(json.dumps({"schema": "hydraopt.eval/1"}, indent=1))
    assert "hydraopt did not make it" not in run(*asked, other).stderr
    assert bundle.read_bytes() == before


def test_a_page_is_not_written_as_markdown(run: Run, bundle: Path, tmp_path: Path) -> None:
    check_refused(run("report", bundle, "-o", tmp_path / "README.md"), UsageError, expected=".html")
    assert not list(tmp_path.glob("*.md"))


@pytest.mark.parametrize(
    ("limit", "given", "trains"),
    [
        ({"size": "3%"}, None, True),
        ({"size": "3%"}, False, False),
        ({}, None, False),
        ({"error": 0.1}, None, False),
        ({"error": 0.1}, True, True),
        ({"harm": "1%"}, None, False),
    ],
)
def test_a_size_is_refitted_and_other_limits_where_that_is_asked(limit, given, trains) -> None:
    """The default limits the worst error, which training would break after minutes a task."""
    request = MergeRequest(base="base", prompted=(("", "prompts"),), refit=given, **limit)
    assert request.refits is trains


def test_what_is_kept_bit_by_bit_needs_no_base(run: Run, bundle: Path, adapters: Path) -> None:
    done = run("add", bundle, f"x={adapters / 'de'}", "--lossless", "--base", "nowhere")
    assert done.exit_code == 2
    check_refused(done, names="--lossless")


def test_originals_get_the_alpha_that_their_merge_got(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file, out = tmp_path / "mine.safetensors", tmp_path / "x.hydra.safetensors"
    sides = {"h.q.lora_A": (4, 12), "h.q.lora_B": (10, 4)}
    save_file({key: rng.standard_normal(x).astype(np.float32) for key, x in sides.items()}, file)
    merge([str(file)], out, error=0.1, alpha=16)
    told = read_compared([str(file), str(out)], alpha=16)
    original, coded = (told.sets("mine")[x]["h.q"] for x in ("original", out.name))
    assert np.linalg.norm(coded[0] @ coded[1]) == pytest.approx(
        np.linalg.norm(original[0] @ original[1]), rel=0.1
    )
    untold = read_compared([str(file)])
    assert ("alpha_missing", "mine") in [(note.code, note.where) for note in untold.notes]
