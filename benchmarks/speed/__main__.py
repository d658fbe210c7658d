"""``python -m benchmarks.speed`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = ("merge", "scaling", "readers", "runtime", "serve_load", "fleet")

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.speed", COMMANDS))
