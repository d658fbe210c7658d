"""``python -m benchmarks.quality`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = (
    "evidence",
    "harm_kept",
    "likely",
    "methods",
    "measures",
    "growth",
    "heads",
    "tuners",
    "real",
    "default",
    "alike",
    "embedding",
    "trained_tuners",
    "probes",
)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.quality", COMMANDS))
