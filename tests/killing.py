"""Writers that are killed before a change of theirs to the file system, one after another."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable

__all__ = ["killed_before", "swept"]

_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
_KILLED = 137

_left = 0
"""Changes until the end; 0 where nobody is to be killed."""


def _seen(event: str, args: tuple[object, ...]) -> None:
    global _left
    if _left == 0:
        return
    if event == "open":
        flags = args[2]
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in _CHANGES:
        return
    _left -= 1
    if _left == 0:
        os._exit(_KILLED)


def killed_before(number: int, act: Callable[[], object]) -> bool:
    """Let a process of its own act, which is killed before its change of that number, from 1 on;
    False if it came to its end. To be called where there are no threads, and nowhere else: what
    watches the changes stays."""
    global _left
    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(_seen)
            _left = number
            act()
            _left = 0
            os._exit(0)
        except BaseException:
            _left = 0
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, _KILLED), f"a writer ended with {status}"
    return status == _KILLED


def swept(script: str, *arguments: object) -> list[str]:
    """What a script prints of the states that its killed writers left, "old" or "new": all that
    were killed early left the old one. The script runs in a process without threads."""
    line = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    kinds = done.stdout.split()
    assert kinds == ["old"] * kinds.count("old") + ["new"] * kinds.count("new")
    return kinds
