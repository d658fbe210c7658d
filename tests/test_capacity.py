"""The memory of this process: the machine's, or less where a control group says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hydraopt.codec import machine as capacity
from hydraopt.errors import MemoryLimitError


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """An empty tree of control groups, in which this process is told to be."""
    root = tmp_path / "groups"
    root.mkdir()
    monkeypatch.setattr(capacity, "GROUPS", root)
    monkeypatch.setattr(capacity, "OWN", tmp_path / "own")
    return root


def _limit(root: Path, group: str, name: str, text: str) -> None:
    (root / group).mkdir(parents=True, exist_ok=True)
    (root / group / name).write_text(text)


def _whole() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_without_groups_it_is_the_machines(groups) -> None:
    assert capacity.most_memory() == _whole()


@pytest.mark.parametrize(
    ("own", "root", "name"),
    [
        ("0::/a/b\n", "", "memory.max"),
        ("5:cpu:/x\n4:cpuset,memory:/a/b\n0::/\n", "memory", "memory.limit_in_bytes"),
    ],
)
def test_the_least_limit_on_the_way_counts(groups, own, root, name) -> None:
    (groups.parent / "own").write_text(own)
    _limit(groups, f"{root}/a/b".lstrip("/"), name, "max\n" if root == "" else f"{1 << 62}\n")
    assert capacity.most_memory() == _whole()
    _limit(groups, f"{root}/a".lstrip("/"), name, "4096\n")
    assert capacity.most_memory() == 4096


def test_a_container_that_sees_its_group_as_the_root(groups) -> None:
    (groups.parent / "own").write_text("0::/docker/1234\n")
    _limit(groups, ".", "memory.max", "8192\n")
    assert capacity.most_memory() == 8192


@pytest.mark.parametrize("own", ["nonsense\n", "\xff", ""])
def test_nonsense_is_no_limit(groups, own) -> None:
    (groups.parent / "own").write_bytes(own.encode("latin-1"))
    assert capacity.most_memory() == _whole()


def test_where_the_system_does_not_say(monkeypatch) -> None:
    monkeypatch.delattr(os, "sysconf_names")
    assert capacity.most_memory() == 0


def test_a_limit_of_the_process_must_leave_enough() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    try:
        capacity.check_memory(1 << 20)
        with pytest.raises(MemoryLimitError, match=r"1048576.*1048577"):
            capacity.check_memory((1 << 40) + (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
