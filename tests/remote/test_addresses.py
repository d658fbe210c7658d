"""What a user types: addresses on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hydraopt.cli.main import cli
from hydraopt.errors import UsageError
from tests.editing.living import state
from tests.raising import check_refused
from tests.remote.servers import Web

Upload = Callable[[Path, str], None]
Content = Callable[[str], dict[str, bytes]]


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(words))
    assert result.exit_code == code, result.output
    return result


def test_pull(web: Web, apart: Path, tmp_path: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    core = web.url("four/four.core.safetensors")
    said = json.loads(run("pull", core, "b", "--json").stdout)
    sizes = [(apart / x).stat().st_size for x in ("four.core.safetensors", "b.task.safetensors")]
    assert said["schema"] == "hydraopt.pull/1"
    assert said["tasks"] == ["b"]
    assert said["files"] == []
    assert said["fetched_bytes"] == sum(sizes)
    out = tmp_path / "here"
    said_of_files = run("pull", core, "b", "c", "-o", str(out)).output
    assert "2 tasks ->" in said_of_files
    assert set(state(out)) == {"four.core.safetensors", "b.task.safetensors", "c.task.safetensors"}
    assert state(out).items() <= state(apart).items()


def test_refusals_are_one_line_with_the_address_and_what_to_do(
    web: Web, merged: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(merged, web.folder / "x.hydra.safetensors")
    there, none = web.url("x.hydra.safetensors"), web.url("none")
    folder = str(tmp_path / "o")
    for words, says in (
        (("inspect", "--list", none), "nothing is at the address"),
        (("export", there, "a", "-o", "s3://bucket/a"), "cannot export to an address"),
        (("pull", there, "-o", "s3://bucket/a"), "cannot export to an address"),
        (("merge", str(adapters["a"]), "-o", there), "nothing can be written over HTTP"),
        (("pull", there, "z", "-o", folder), "no such task"),
        (("remove", there, "a"), "nothing can be written over HTTP"),
        (("merge", f"{web.address}/*", "-o", folder), "no matches over HTTP"),
    ):
        said = run(*words, code=2).output.strip()
        assert says in said
        assert "\n" not in said.partition("Error: ")[2]
    assert not Path(folder).exists()
    assert not Path("s3:").exists()


@pytest.mark.parametrize("bucket", ["memory"], indirect=True)
def test_a_merge_into_a_folder_of_a_store(
    bucket: str, adapters: dict[str, Path], apart: Path, merged: Path, content: Content
) -> None:
    given = [str(adapters[name]) for name in "abcd"]
    run("merge", *given, "--error", "0.05", "-o", f"{bucket}/four/")
    assert content(f"{bucket}/four") == state(apart)
    said = run("merge", *given, "-o", f"{bucket}/four/", code=2).output
    assert "the folder is not empty" in said
    run("shrink", f"{bucket}/four/", "--error", "0.3", "-o", f"{bucket}/small/")
    assert set(content(f"{bucket}/small")) == {
        name.replace("four", "small") for name in content(f"{bucket}/four")
    }
    before = content(bucket)
    for words in (
        ("join", f"{bucket}/four/", "-o", f"{bucket}/small"),
        ("refresh", str(merged), "-o", f"{bucket}/small"),
    ):
        check_refused(run(*words, code=2), UsageError, file="small")
    assert content(bucket) == before
