"""``python -m benchmarks.quality`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = (
    "equal_kl",
    "few_prompts",
    "harm_kept",
    "known_start",
    "growth",
    "heads",
    "tuners",
    "real",
    "traced",
    "default",
    "embedding",
    "trained_tuners",
    "probe_sets",
    "probes",
)

if __name__ == "__main__":
    sys.exit(dispatch("benchmarks.quality", COMMANDS))
