"""``python -m benchmarks.coding`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = ("tables",)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.coding", COMMANDS))
