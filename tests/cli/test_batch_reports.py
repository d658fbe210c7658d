"""merge and its like with odd files: all problems at once, a way on, and a command per base."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from hydraopt.errors import BatchError
from tests.cli.conftest import MakeAdapter, Run
from tests.marks import slow
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


def commands(output: str) -> list[list[str]]:
    return [shlex.split(x)[1:] for x in output.splitlines() if x.startswith("  hydraopt merge ")]


@pytest.mark.parametrize("form", ["-o", slow("--output"), "--output="])
def test_the_commands_that_are_printed_merge_each_group(
    run: Run, batch: Path, tmp_path: Path, form: str
) -> None:
    out = str(tmp_path / "out.hydra.safetensors")
    given = [f"{form}{out}"] if form.endswith("=") else [form, out]
    done = run("merge", *sorted(batch.iterdir()), "--error", "0.3", *given)
    assert done.exit_code == 2
    check_refused(done, BatchError, names="bad.safetensors")
    check_refused(done, BatchError, names="worse.safetensors")
    printed = commands(done.output)
    assert len(printed) == 2
    tasks = []
    for words in printed:
        made = run(*words, "--json")
        assert made.exit_code == 0, made.output
        result = json.loads(made.stdout)
        tasks.append(sorted(task["name"] for task in result["tasks"]))
    assert sorted(tasks) == [["de", "fr"], ["en"]]
    assert len(list(tmp_path.glob("out*"))) == 2
    assert not Path(out).exists()


def test_names_that_were_given_stay_in_the_commands(run: Run, batch: Path, tmp_path: Path) -> None:
    given = [f"x={batch}/de", f"y={batch}/en"]
    done = run("merge", *given, "-o", tmp_path / "out")
    (one, other) = commands(done.output)
    assert {one[1], other[1]} == set(given)


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
