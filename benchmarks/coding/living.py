"""Compare adapters added to a collection, a few at a time, with one merge of all.

    python -m benchmarks.coding living zoo/adapters/gemma3-5x8

The folder's adapters are named KIND-VARIANT. Batches hold one variant of each kind, as new
languages would come to a platform. The first batches are merged to --size, and the others are added
at the price that came out. Then all are merged at once to the bytes that the collection has, and to
a tenth less: between the two lies the size that has the same mean error. At last the collection is
refreshed from the originals.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt import merge, open_bundle
from hydraopt.editing.refresh import expected_saving, refresh
from hydraopt.editing.verbs import add

DAY = "2026-01-01"


def batches_of(folder: Path) -> list[list[Path]]:
    """Return the batches, of which the i-th has the i-th variant of every kind."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(x for x in folder.iterdir() if x.is_dir()):
        kinds.setdefault(path.name.partition("-")[0], []).append(path)
    most = max(map(len, kinds.values()))
    return [[own[i] for own in kinds.values() if i < len(own)] for i in range(most)]


def mean_error(path: Path) -> float:
    """Return the mean relative error of the tasks, as the manifest says."""
    errors = [task.error for task in open_bundle(path).manifest.tasks]
    return sum(errors) / len(errors)


def grown(batches: Sequence[Sequence[Path]], first: int, size: str, folder: Path) -> dict[str, Any]:
    """Return the row of a collection whose first batches were merged and the others added."""
    path, once = folder / "grown", folder / "once"
    everything = [x for batch in batches for x in batch]
    merge([x for batch in batches[:first] for x in batch], path, size=size)
    seconds = []
    for batch in batches[first:]:
        started = time.process_time()
        add(path, batch, day=DAY)
        seconds.append((time.process_time() - started) / len(batch))
    error, before = mean_error(path), open_bundle(path).size
    points = []
    for share in (1.0, 1 / 1.1):
        size_once = merge(everything, once, size=int(share * before)).size
        points.append((math.log(mean_error(once)), math.log(size_once)))
    (x0, y0), (x1, y1) = points
    alike = math.exp(y0 + (math.log(error) - x0) * (y1 - y0) / (x1 - x0))
    expected = expected_saving(path, adapters=everything)
    fresh = refresh(path, adapters=everything)
    return {
        "merged": sum(map(len, batches[:first])),
        "added": sum(map(len, batches[first:])),
        "size": size,
        "bytes": before,
        "mean_error": error,
        "at_once_mean_error_at_these_bytes": math.exp(x0),
        "at_once_bytes_at_this_error": round(alike),
        "larger": before / alike - 1,
        "expected_saving": expected.saved,
        "refreshed_bytes": fresh.size,
        "refreshed_mean_error": mean_error(path),
        "process_seconds_to_add_one": sum(seconds) / len(seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("--size", default="5%", help="Of the merge of the first batches.")
    parser.add_argument("--first", type=int, nargs="*", default=(1, 2, 4, 7), metavar="BATCHES")
    args = parser.parse_args(arguments)
    head = provenance("adapters added to a collection against merging all at once")
    batches, rows = batches_of(args.adapters), []
    for first in args.first:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(grown(batches, first, args.size, Path(folder)))
        print(rows[-1], flush=True)
        write_result(CODING, "living", head, rows)


if __name__ == "__main__":
    main()
