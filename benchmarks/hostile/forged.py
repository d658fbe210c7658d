"""Compare the verdicts of hydraopt and the C library on forged bundles with right checksums.

    python -m benchmarks.hostile forged READER --count 1000 --seed 0 --json FILE

READER: native/tests/conformance.c, compiled, best with sanitizers (native/test does both). Each
forgery is verified, and each of its tasks written as a PEFT adapter. Those on which the two differ
stay in --keep. Exit code 1 if there is any.
"""

from __future__ import annotations

import collections
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.commands import parser_of
from benchmarks.hostile.fuzz import environment, write_result
from conformance.run import results_of
from tests.bundle.forged import forgeries
from tests.conformance.judging import differences, of_python


def compare(command: str, count: int, start: int, keep: Path) -> dict[str, Any]:
    """Count the forgeries that were sound, refused and judged differently; list the last."""
    counts: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hydra.safetensors"

        @seed(start)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=False,
        )
        @given(forgeries())
        def run(data: bytes) -> None:
            path.write_bytes(data)
            counts["forgeries"] += 1
            try:
                ours = of_python(path)
                found = differences(path, ours, results_of([command], [path])[0])
                counts["sound" if ours["verify"] == "ok" else "refused"] += 1
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"[:300]]
            if found:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{start}-{counts['forgeries']}.hydra.safetensors").write_bytes(data)
                failures.append({"forgery": counts["forgeries"], "found": found})

        run()
    names = ("forgeries", "sound", "refused")
    return {**{x: counts[x] for x in names}, "differ": len(failures), "failures": failures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("reader", metavar="READER")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--keep", type=Path, default=Path("forged"), help="folder for forgeries")
    options = parser.parse_args(arguments)
    found = compare(options.reader, options.count, options.seed, options.keep)
    told = f"forged READER --count {options.count} --seed {options.seed}"
    head = {"schema": "hydraopt.forged/1", "command": f"python -m benchmarks.hostile {told}"}
    write_result({**head, "seed": options.seed, **found, **environment()}, options.json)
    print(*found["failures"], sep="\n", file=sys.stderr)
    return 1 if found["differ"] else 0
