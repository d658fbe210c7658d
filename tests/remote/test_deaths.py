"""Writers that die, and objects that change, between two steps in a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, verify_bundle
from hydraopt.bundle import join, split
from hydraopt.errors import (
    RemoteError,
)
from hydraopt.files import Url, copy_to, store_of, stores
from hydraopt.files.addresses import Mark
from hydraopt.merging import remove, rename, replace
from tests.editing.living import all_bytes, state
from tests.marks import slow
from tests.raising import raises

DAY = "2026-03-01"

Upload = Callable[[Path, str], None]
Content = Callable[[str], dict[str, bytes]]


class Died(BaseException):
    """What ends a writer between two steps."""


def dying(act: Callable[..., object], left: list[int]) -> Callable[..., object]:
    """The same, but that it ends the writer when there are no steps left."""

    def act_or_die(*given: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Died
        return act(*given)

    return act_or_die


def unlock(content: Content, address: str) -> None:
    """Delete the lock that a writer left, as people do who know that it is dead."""
    for name in content(address):
        if name.endswith(".lock"):
            store_of(Url(address)).remove(Url(f"{address}/{name}"))


@pytest.mark.parametrize("verb", ["rename", slow("replace and add"), slow("remove")])
@pytest.mark.parametrize("bucket", ["memory"], indirect=True)
def test_a_writer_that_dies_leaves_each_task_old_or_new(
    verb: str,
    bucket: str,
    upload: Upload,
    content: Content,
    apart: Path,
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydraopt.files.objects import ObjectStore

    acts: dict[str, Callable[[str], object]] = {
        "rename": lambda at: rename(at, "a", "z"),
        "replace and add": lambda at: replace(at, [f"a={adapters['e']}"], day=DAY),
        "remove": lambda at: remove(at, ["a", "b"]),
    }
    upload(apart, f"{bucket}/done")
    acts[verb](f"{bucket}/done")
    done = content(f"{bucket}/done")
    deaths = 0
    for step in range(20):
        address = f"{bucket}/step{step}"
        upload(apart, address)
        left = [step]
        with monkeypatch.context() as patched:
            for name in ("put", "create", "remove"):
                patched.setattr(ObjectStore, name, dying(getattr(ObjectStore, name), left))
            try:
                acts[verb](address)
            except Died:
                deaths += 1
        names = set(open_bundle(address))  # nothing is unreadable, and no other task is touched
        assert set("bcd" if verb != "remove" else "cd") <= names <= set("abcdz")
        assert names & {"a", "z"} or verb == "remove"
        assert verify_bundle(address).ok
        now = content(address)
        for name in set(now) & set(state(apart)):
            assert now[name] in (state(apart)[name], done.get(name))
        unlock(content, address)
        if "a" in open_bundle(address):  # the next one goes on, or begins anew
            remove(address, ["c"])
            assert "a" in open_bundle(address)
        if not deaths or deaths <= step:
            break
    assert deaths > 1


@pytest.mark.parametrize("bucket", ["memory"], indirect=True)
def test_a_writer_that_dies_leaves_the_old_core_with_its_tasks_or_the_new_one(
    bucket: str,
    upload: Upload,
    content: Content,
    merged: Path,
    apart: Path,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydraopt.files.objects import ObjectStore

    other = tmp_path / "new" / "other.hydra.safetensors"
    other.parent.mkdir()
    merge([adapters[name] for name in "abe"], other, error=0.2)
    sides = [all_bytes(path) for path in (merged, other)]
    seen, address = [], f"{bucket}/parts"
    upload(apart, address)

    def over(new: Path) -> None:
        split(new, address, overwrite=True, another_core=True)

    for step in range(20):
        left = [step]
        with monkeypatch.context() as patched:
            for name in ("put", "create", "remove"):
                patched.setattr(ObjectStore, name, dying(getattr(ObjectStore, name), left))
            with suppress(Died):
                over(other)
        unlock(content, address)
        seen.append(sides.index(all_bytes(address)))  # type: ignore[arg-type]
        if left[0] >= 0:
            break
        if step % 2:  # the next writer goes on, or another one begins
            over(merged)
            assert all_bytes(address) == sides[0]  # type: ignore[arg-type]
            assert len(content(address)) == 5
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
    assert len(content(address)) == 4
    join([address], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("bucket", ["memory"], indirect=True)
def test_an_object_that_is_replaced_while_it_is_copied_is_an_error(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydraopt.files.objects import ObjectStore

    monkeypatch.setattr(stores, "CHUNK", 10)
    address = Url(f"{bucket}/x")
    store_of(address).put(address, b"a" * 30)
    assert copy_to(address, tmp_path / "x") == 30
    real = ObjectStore.read

    def replaced(store: ObjectStore, url: Url, start: int, size: int, mark: Mark) -> bytes:
        if start == 10:
            store.put(url, b"b" * 30)
        return real(store, url, start, size, mark)

    monkeypatch.setattr(ObjectStore, "read", replaced)
    with raises(RemoteError, file="x"):
        copy_to(address, tmp_path / "y")
