"""``split`` and ``join``, and the other commands on what split wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hydraopt.errors import BundleFormatError, TaskNotFoundError, UsageError
from tests.cli.conftest import TASKS, Run
from tests.raising import check_refused


def test_there_and_back(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder, back = tmp_path / "apart", tmp_path / "back.hydra.safetensors"
    result = run("split", bundle, "-o", folder)
    assert result.exit_code == 0, result.output
    files = sorted(folder.iterdir())
    for text in (*TASKS, "core ->", f"{len(TASKS) + 2} files"):
        assert text in result.stdout
    assert len(files) == len(TASKS) + 2  # with the index, which join takes and does not need
    assert all(str(file) in result.stdout for file in files)
    result = run("join", *files, "-o", back)
    assert result.exit_code == 0, result.output
    assert f"{len(TASKS)} tasks" in result.stdout
    assert back.read_bytes() == bundle.read_bytes()


def test_as_json(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder, back = tmp_path / "apart", tmp_path / "back"
    said = json.loads(run("split", bundle, "-o", folder, "--json").stdout)
    assert said["schema"] == "hydraopt.split/1"
    assert [x["task"] for x in said["files"]] == [None, *TASKS, None]
    assert said["bytes"] == sum(x.stat().st_size for x in folder.iterdir())
    assert {Path(x["file"]) for x in said["files"]} == set(folder.iterdir())
    assert all(Path(x["file"]).stat().st_size == x["bytes"] for x in said["files"])
    said = json.loads(run("join", folder, "-o", back, "--json").stdout)
    assert said["schema"] == "hydraopt.join/1"
    assert (said["tasks"], said["bytes"]) == (list(TASKS), bundle.stat().st_size)


def test_other_commands_take_the_folder(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    run("split", bundle, "-o", folder)
    (core,) = folder.glob("*.core.safetensors")
    for place in (folder, core):
        result = run("inspect", place)
        assert result.exit_code == 0, result.output
        assert "q_proj" in result.stdout
    assert run("verify", folder).exit_code == 0
    task = TASKS[0]
    for place, out in ((folder, "a"), (bundle, "b")):
        result = run("export", place, task, "-o", tmp_path / out)
        assert result.exit_code == 0, result.output
    one, other = ((tmp_path / x / "adapter_model.safetensors").read_bytes() for x in "ab")
    assert one == other
    result = run("shrink", folder, "-o", tmp_path / "small.hydra.safetensors", "--size", "25%")
    assert result.exit_code == 0, result.output


def test_refused_without_output(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "apart", tmp_path / "out"
    run("split", bundle, "-o", folder)
    check_refused(run("split", bundle, "-o", folder), UsageError, file="apart")
    assert run("split", bundle, "-o", folder, "--force").exit_code == 0
    (core,) = folder.glob("*.core.safetensors")
    other = Path(shutil.copy(core, tmp_path / core.name))
    refused = run("join", folder, other, "-o", out)
    assert refused.exit_code == 2
    check_refused(
        refused, BundleFormatError, got="three.core.safetensors", expected="NAME.core.safetensors"
    )
    assert not out.exists()
    # A mistyped output does not destroy a part.
    refused = run("join", folder, "-o", core)
    check_refused(refused, UsageError, file="three.core.safetensors")
    (tmp_path / "text").write_text("mine")
    assert run("join", folder, "-o", tmp_path / "text").exit_code == 2
    assert run("join", folder, "-o", tmp_path / "text", "--force").exit_code == 0


def test_another_collection_is_not_overwritten(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "apart", tmp_path / "other.hydra.safetensors"
    run("shrink", bundle, "-o", other, "--size", "25%")
    run("split", other, "-o", folder)
    (folder / "mine.txt").write_text("mine")
    before = {x.name: x.read_bytes() for x in folder.iterdir()}
    result = run("split", bundle, "-o", folder, "--force")
    assert result.exit_code == 2
    check_refused(result, UsageError, file="de.task.safetensors")
    assert {x.name: x.read_bytes() for x in folder.iterdir()} == before
    # Without its core, a task file tells as much; what cannot be read belongs to nobody.
    (core,) = folder.glob("*.core.safetensors")
    core.write_bytes(b"damaged")
    assert run("split", bundle, "-o", folder, "--force").exit_code == 2
    for file in folder.glob("*.task.safetensors"):
        file.write_bytes(b"damaged")
    assert run("split", bundle, "-o", folder, "--force").exit_code == 0
    assert run("verify", folder).exit_code == 0
    assert (folder / "mine.txt").read_text() == "mine"


def test_an_empty_bundle_says_so(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "apart", tmp_path / "out.hydra.safetensors"
    run("split", bundle, "-o", folder)
    (core,) = folder.glob("*.core.safetensors")
    result = run("join", core, "-o", out)
    assert result.exit_code == 0
    assert result.stderr
    assert run("export", out, "x", "-o", folder).exit_code == 2
    result = run("export", out, "--all", "-o", tmp_path / "none")
    assert (result.exit_code, bool(result.stderr)) == (0, True)
    check_refused(run("refresh", out, "--force"), UsageError, file="out.hydra.safetensors")


def test_a_path_that_is_not_there_is_no_damage(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for words in (["inspect", "--list"], ["verify"], ["refresh"], ["join", "-o", tmp_path / "x"]):
        result = run(*words, missing)
        assert (result.exit_code, result.stdout) == (2, "")


def test_a_wrong_task_of_a_full_folder_is_not_told_that_there_are_none(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "apart"
    run("split", bundle, "-o", folder)
    result = run("pull", folder, "zzz", "-o", tmp_path / "out")
    assert result.exit_code == 2
    check_refused(result, TaskNotFoundError, file="apart", got="'zzz'")
