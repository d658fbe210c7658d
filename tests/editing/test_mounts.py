"""The files of a collection are replaced one by one, and nobody loses a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt.merging import refresh
from tests.killing import swept
from tests.marks import slow

# Kills a writer before each of its changes. The next writer, who renames a task, leaves the tasks
# of before or those that were to come. A process of its own, because forking one that has threads
# is not safe.
_SWEEP = """
import os, shutil, sys, tempfile
from pathlib import Path
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.splitting import split
from hydraopt.merging.refreshing import refresh
from hydraopt.merging.changes import rename
from hydraopt.errors import BundleFormatError
from tests.editing.living import all_bytes
from tests.killing import killed_before

one, other, top, how = *map(Path, sys.argv[1:4]), sys.argv[4]
folder, parts = top / "mnt", top.parent / "parts"
split(one, parts)
tempfile.tempdir = str(top.parent)

def fresh():
    shutil.rmtree(top, ignore_errors=True)
    shutil.copytree(parts, folder)

def act():
    if how == "split":
        split(other, folder, overwrite=True, another_core=True)
    else:
        refresh(folder, error=0.3, workers=1)

def after():
    rename(folder, "a", "x")
    assert list(top.iterdir()) == [folder]
    assert not [x.name for x in folder.iterdir() if x.name.startswith(".")]
    for task in (bundle := open_bundle(folder)):
        bundle[task].factors()
    return all_bytes(folder)

fresh()
old = after()
fresh()
act()
new = after()
assert old.keys() == new.keys() == set("xbcd") | {""}
assert all(old[name] != new[name] for name in old)
told, number, dead = [], 0, True
while dead:
    number += 1
    fresh()
    dead = killed_before(number, act)
    try:
        told.append(all_bytes(folder)["b"] == new["b"])
    except BundleFormatError as error:
        assert "hydraopt refresh FOLDER finishes it" in str(error), error
        told.append(None)
    left = after()
    assert left in (old, new)
    assert left == new or not told[-1]
    print("new" if left == new else "old")
assert None in told
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["split", slow("refresh")])
def test_killed_before_any_change_all_tasks_are_there(
    merged: Path, tmp_path: Path, how: str
) -> None:
    other = tmp_path / "other.hydra.safetensors"
    refresh(merged, other, error=0.3)
    kinds = swept(_SWEEP, merged, other, tmp_path / "top", how)
    assert kinds.count("old") > 8
    assert kinds.count("new") > 12
