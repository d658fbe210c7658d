"""Changes of several tasks whose writer is killed: in a folder each task is old or new, and a file
is the old bundle or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.killing import swept
from tests.marks import slow

# A process of its own, because forking one that has threads is not safe.
_SWEEP = """
import shutil, sys
from pathlib import Path
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.splitting import split
from hydraopt.bundle.opening import verify_bundle
from hydraopt.merging.changes import add, remove, rename, replace
from tests.editing.living import all_bytes
from tests.killing import killed_before

merged, top, e, f, kind, verb = *map(Path, sys.argv[1:5]), *sys.argv[5:7]
folder = kind == "folder"
at = top / ("four" if folder else "four.hydra.safetensors")
DAY = "2026-03-01"

def fresh():
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    split(merged, at) if folder else shutil.copy(merged, at)

ACTS = {
    "remove": lambda: remove(at, ["a", "b", "c"]),
    "add": lambda: add(at, [f"x={e}", f"y={f}", f"z={e}"], day=DAY),
    "replace": lambda: replace(at, [f"a={e}", f"b={f}", f"c={e}"], day=DAY),
}
act = ACTS[verb]

fresh()
old = all_bytes(at)
act()
new = all_bytes(at)
changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
assert len(changed) == 3
states = [{**old, **{x: new.get(x) for x in changed[:count]}} for count in range(4)]
states = [{x: y for x, y in state.items() if y is not None} for state in states]
allowed = states if folder else [old, new]
met, number, dead = [], 0, True
while dead:
    number += 1
    fresh()
    dead = killed_before(number, act)
    left = all_bytes(at)
    met.append(allowed.index(left))
    assert verify_bundle(at).ok
    print("old" if met[-1] == 0 else "new")
    # The next writer goes on from there, and leaves nothing of the dead one's.
    rename(at, "d", "D")
    assert all_bytes(at) == {"D" if x == "d" else x: y for x, y in left.items()}
    assert [x.name for x in (*top.rglob(".*"), *top.rglob("*.tmp*"))] == []
assert met == sorted(met)
assert set(met) == set(range(len(allowed)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "verb"),
    [
        ("folder", "remove"),
        ("file", "remove"),
        *(slow(x, y) for x in ("folder", "file") for y in ("add", "replace")),
    ],
)
def test_a_writer_of_several_tasks_is_killed(
    kind: str, verb: str, merged: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    given = merged, tmp_path / "top", adapters["e"], adapters["f"]
    kinds = swept(_SWEEP, *given, kind, verb)
    assert len(set(kinds)) == 2
