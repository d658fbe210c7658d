"""``python -m benchmarks.quality`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = (
    "equal_kl",
    "harm_kept",
    "growth",
    "tuners",
    "real",
    "default",
    "probe_sets",
)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.quality", COMMANDS))
