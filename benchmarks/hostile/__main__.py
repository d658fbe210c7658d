"""``python -m benchmarks.hostile`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = ("fuzz",)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.hostile", COMMANDS))
