"""merge and its like with odd files: all problems at once, a way on, and a command per base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hydraopt.errors import BatchError
from tests.cli.conftest import MakeAdapter, Run
from tests.raising import check_refused


@pytest.fixture
def batch(make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    """Adapters of two bases, and two files that are no adapters."""
    folder = tmp_path / "a set"
    for i, (name, base) in enumerate((("de", "one"), ("fr", "one"), ("en", "two"))):
        rng = np.random.default_rng(i)
        pair = rng.standard_normal((12, 2)), rng.standard_normal((2, 16))
        made = make_adapter(folder / name, {"layers.0.q_proj": pair})
        config = json.loads((made / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"org/{base}"
        (made / "adapter_config.json").write_text(json.dumps(config))
    for name in ("bad.safetensors", "worse.safetensors"):
        (folder / name).write_text("x")
    return folder


def test_all_problems_are_listed(run: Run, batch: Path, tmp_path: Path) -> None:
    done = run("merge", *sorted(batch.iterdir()), "--error", "0.3", "-o", tmp_path / "out")
    assert done.exit_code == 2
    for name in ("bad.safetensors", "worse.safetensors"):
        check_refused(done, BatchError, names=name)
    assert all(base in done.stderr for base in ("org/one", "org/two"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["merge", "inspect", "add"])
def test_unreadable_files_are_left_out_with_a_list(
    run: Run, batch: Path, tmp_path: Path, verb: str
) -> None:
    bundle = tmp_path / "b.hydra.safetensors"
    assert run("merge", batch / "fr", "--error", "0.3", "-o", bundle).exit_code == 0
    words = {
        "merge": ["merge", "--error", "0.3", "-o", tmp_path / "out"],
        "inspect": ["inspect"],
        "add": ["add", bundle],
    }[verb]
    files = [batch / name for name in ("de", "bad.safetensors", "worse.safetensors")]
    assert run(*words, *files).exit_code == 2
    done = run(*words, *files, "--skip-unreadable", "--json")
    assert done.exit_code == 0, done.output
    notes = [note for note in json.loads(done.stdout)["notes"] if note["code"] == "unreadable"]
    places = ", ".join(note["where"] for note in notes)
    assert places == ", ".join(str(path) for path in files[1:])


def test_a_name_with_a_line_end_makes_no_line(run: Run, batch: Path, tmp_path: Path) -> None:
    odd = batch / "x\nError: all is lost.safetensors"
    odd.write_text("x")
    done = run("merge", odd, batch / "bad.safetensors", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert not any(line.startswith("Error: all") for line in done.output.splitlines())
