"""Folders over HTTP: a core with task files is one bundle, whether the server lists them or not."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from hydraopt import open_bundle
from hydraopt.errors import NotThereError, RemoteError, TaskNotFoundError, UsageError
from hydraopt.files import INDEX_NAME
from hydraopt.merging import rename
from tests.raising import raises
from tests.remote.servers import Reply, Web, same_tasks


def test_a_core_with_task_files_reads_the_files_of_one_task(
    web: Web, apart: Path, merged: Path
) -> None:
    shutil.copytree(apart, web.folder / "four")
    core = web.url("four/four.core.safetensors")
    open_bundle(core, tasks=["b"])["b"].factors()
    files = [apart / x for x in ("four.core.safetensors", INDEX_NAME, "b.task.safetensors")]
    assert web.sent <= 1.05 * sum(file.stat().st_size for file in files)
    assert not any("c.task" in path or "a.task" in path for path in web.requests)
    same_tasks(core, merged)
    with raises(TaskNotFoundError, file="four.core.safetensors", got="'z'"):
        open_bundle(core, tasks=["z"])


def test_a_folder_that_lists_its_files_is_a_collection(web: Web, apart: Path, merged: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    (web.folder / "four" / INDEX_NAME).unlink()
    with raises(UsageError, file="four"):
        open_bundle(web.url("four/"))
    with raises(UsageError, file="four.core.safetensors"):
        open_bundle(web.url("four/four.core.safetensors"))
    web.listed = True
    assert list(open_bundle(web.url("four/"))) == list("abcd")
    same_tasks(web.url("four/"), merged)


@pytest.mark.parametrize("listed", [False, True])
def test_a_folder_without_its_slash_is_told_to_have_one(
    web: Web, apart: Path, listed: bool
) -> None:
    shutil.copytree(apart, web.folder / "my four")
    web.listed = listed
    with raises(NotThereError, file="my%20four", got="a folder"):
        open_bundle(f"{web.address}/my%20four")
    with raises(NotThereError, file="other", got="status 404"):
        open_bundle(web.url("other"))
    with pytest.raises(NotThereError) as caught:
        open_bundle(web.url("other.safetensors"))
    assert "slash" not in str(caught.value)


def test_task_files_with_odd_names_are_asked_for_in_full(web: Web, apart: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    rename(web.folder / "four", "b", "été #1 100%?")
    bundle = open_bundle(web.url("four/four.core.safetensors"), tasks=["été #1 100%?"])
    assert list(bundle) == ["été #1 100%?"]


def test_of_names_that_look_alike_only_the_one_asked_for_is_given(web: Web, apart: Path) -> None:
    folder = web.folder / "four"
    shutil.copytree(apart, folder)
    rename(folder, "b", "A")
    assert (folder / "A~2.task.safetensors").is_file()
    for address in (folder, web.url("four/four.core.safetensors")):
        for name in ("a", "A"):
            assert list(open_bundle(address, tasks=[name])) == [name]


def test_a_list_that_comes_later_is_waited_for(web: Web, apart: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    web.listed = True
    tries = []

    def fail_twice(reply: Reply) -> None:
        if reply.path.endswith("/") and len(tries) < 2:
            tries.append(reply.path)
            reply.status = 503

    web.fault = fail_twice
    assert list(open_bundle(web.url("four/"))) == list("abcd")
    assert len(tries) == 2


def test_a_list_that_is_too_long_is_refused(
    web: Web, apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydraopt.files import web as reading

    shutil.copytree(apart, web.folder / "four")
    web.listed = True
    monkeypatch.setattr(reading, "MOST_PAGE", 50)
    with raises(RemoteError, file="four", got="over 50 bytes"):
        open_bundle(web.url("four/"))


def test_a_page_of_half_links_takes_no_time() -> None:
    from hydraopt.files.web import _LINK

    started = time.process_time()
    assert _LINK.findall("<a " * 100_000) == []
    assert time.process_time() - started < 5
    assert _LINK.findall("<a class='x'\nhref = \"y\">") == ["y"]
