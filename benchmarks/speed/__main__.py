"""``python -m benchmarks.speed`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = ("figures",)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.speed", COMMANDS))
