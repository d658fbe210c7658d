"""hydraopt and the C library over many forged bundles.

    PYTHONPATH=src:. python -m tests.native.side_by_side VERDICTS COUNT [SEED]

VERDICTS: native/tests/verdicts.c, compiled, best with sanitizers. It prints each forgery on which
they differ, which stays beside the others in the folder forged-SEED, and how many were sound.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.bundle.forged import forgeries
from tests.verdicts.judging import differences, of_c, of_python


def compare(command: str, count: int, start: int) -> collections.Counter[str]:
    """How many forgeries were sound, refused, and judged differently."""
    counts: collections.Counter[str] = collections.Counter()
    folder = Path(f"forged-{start}")
    folder.mkdir(exist_ok=True)
    path = folder / "x.hydra.safetensors"

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
        number = sum(counts.values())
        try:
            ours = of_python(path)
            found = differences(path, ours, of_c(command, [path])[0])
            counts["sound" if ours.whole == "ok" else "refused"] += 1
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"[:300]]
        if found:
            counts["differ"] += 1
            path.rename(folder / f"{number}.hydra.safetensors")
            print(number, *found, flush=True)

    run()
    return counts


if __name__ == "__main__":
    print(dict(compare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)))
