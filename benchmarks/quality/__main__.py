"""``python -m benchmarks.quality`` lists the commands."""

from __future__ import annotations

import sys

from benchmarks.commands import dispatch

COMMANDS = (
    "evidence",
    "harm_kept",
    "likely",
    "prompt_ways",
    "methods",
    "measures",
    "known_start",
    "few_prompts",
    "equal_kl",
    "together",
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
