"""``python -m benchmarks.speed`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = (
    "merge", "scaling", "readers", "remote", "folders", "runtime", "serve_load",
    "report", "fleet", "install", "threads", "use",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.speed", COMMANDS))
