"""Count adapters by other people whose initial A can be traced to a seed, and time the search.

    python -m benchmarks.quality traced --adapters DIR

DIR holds the adapters and the MANIFEST.json that lists them. Each is searched alone; seconds are
those of the processor, in one thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from benchmarks.quality.real import places
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.adapters.start import traced
from hydraopt.errors import HydraoptError
from hydraopt.linalg.start import Drawn
from hydraopt.threads import one_blas_thread

__all__ = ["row_of"]


def row_of(adapter: Adapter) -> dict[str, Any]:
    """Return the start of an adapter, the seconds of the search, and the cosines of A with A_0."""
    before = time.process_time()
    with one_blas_thread():
        [found] = traced([adapter])
    drawn = {path: x.initial for path, x in found.modules.items() if x.initial is not None}
    row: dict[str, Any] = {
        "format": adapter.format,
        "modules": len(adapter.modules),
        "seconds": round(time.process_time() - before, 2),
        "traced": len(drawn),
    }
    if drawn:
        cosines = _cosines(adapter, drawn)
        first = min(drawn.values(), key=lambda x: x.offset)
        row["seed"], row["first"] = first.start.seed, first.offset
        row["cosine"] = round(float(np.median(cosines)), 3)
        row["least_cosine"] = round(min(cosines), 3)
    return row


def _cosines(adapter: Adapter, drawn: Mapping[str, Drawn]) -> list[float]:
    cosines = []
    for path, initial in sorted(drawn.items(), key=lambda item: item[1].offset):
        module = adapter.modules[path]
        a = module.a.float64().ravel()
        numbers = initial.basis(module.n).vectors.T.ravel()
        cosines.append(float(a @ numbers / np.linalg.norm(a) / np.linalg.norm(numbers)))
    return cosines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--adapters", type=Path, required=True)
    args = parser.parse_args(arguments)
    head = provenance("starts of real adapters, searched for in each alone")
    rows = []
    for about, place in places(args.adapters):
        try:
            adapter = read_adapter(place)
        except HydraoptError as error:
            print(f"{about['repo']}: {error}")
            continue
        rows.append({"repo": about["repo"], **row_of(adapter)})
        print(rows[-1])
    write_result(QUALITY, "traced", head, rows)
