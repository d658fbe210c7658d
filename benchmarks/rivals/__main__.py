"""``python -m benchmarks.rivals`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = ("compare",)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.rivals", COMMANDS))
