"""Measure bytes of adapters by other people, with heads kept bit by bit and coded.

    python -m benchmarks.quality real --adapters DIR

DIR holds the adapters and the MANIFEST.json that lists them. Each is merged alone to a tenth of its
bytes, and verified; before that with ``exact`` tensors, as far as that size allows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.bundle import open_bundle, verify_bundle
from hydraopt.codec import as_matrix
from hydraopt.errors import BudgetError, HydraoptError
from hydraopt.merging import merge

SIZE = "10%"
SMALLEST = 0.99
"""A mean error at which next to nothing of the low-rank parts is left."""


def _dense_error(adapter: Adapter, bundle: Path) -> dict[str, Any]:
    """Return the relative error of all coded tensors together, and of the one with most bytes."""
    task = open_bundle(bundle)[adapter.name]
    wrong = whole = 0.0
    for entry, decoded, reference in task.dense_matrices():
        true = as_matrix(adapter.extras[entry.key].numpy().astype(np.float64))
        wrong += float(np.sum((true - decoded) ** 2))
        whole += float(np.sum((true - reference) ** 2))
    sizes = task.tensor_bytes()
    largest = max(sizes, key=sizes.__getitem__, default=None)
    return {
        "tensors": len(sizes),
        "tensor_bytes": sum(sizes.values()),
        "tensors_error": float(np.sqrt(wrong / whole)) if whole else None,
        "largest": largest,
        "largest_error": task.tensor_errors[largest] if largest else None,
    }


def row_of(place: Path, folder: Path) -> dict[str, Any]:
    """Return the row of one adapter; raises HydraoptError where it cannot be read."""
    adapter, target = read_adapter(place), folder / "one.hydra.safetensors"
    row: dict[str, Any] = {
        "format": adapter.format,
        "numbers": adapter.numbers,
        "tensor_numbers": sum(int(np.prod(x.shape)) for x in adapter.extras.values()),
        "fp16_bytes": 2 * adapter.numbers,
    }
    exact = ["*"] if adapter.extras else []
    try:
        before = merge([adapter], target, size=SIZE, exact=exact)
        row["exact"] = {"bytes": before.size, "error": before.errors[adapter.name]}
    except BudgetError:
        least = merge([adapter], target, exact=exact, error=SMALLEST)
        row["exact"] = {"refused": True, "least_bytes": least.size}
    started = time.monotonic()
    after = merge([adapter], target, size=SIZE)
    seconds = time.monotonic() - started
    report = verify_bundle(target, [adapter])
    row["coded"] = {
        "bytes": after.size,
        "error": after.errors[adapter.name],
        **_dense_error(adapter, target),
        "verified": report.ok,
        "seconds": round(seconds, 2),
    }
    return row


def places(folder: Path) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """Yield what MANIFEST.json says of every adapter, and where it is.

    That is its file, or the folder if there is no other in it.
    """
    for about in json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8")):
        file = folder / about["file"]
        alone = len(list(file.parent.glob(f"*{file.suffix}"))) == 1
        yield about, file.parent if alone else file


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--adapters", type=Path, required=True)
    args = parser.parse_args(arguments)
    head = provenance(f"real adapters, merged alone at {SIZE} of their bytes", seed=None)
    rows = []
    for about, place in places(args.adapters):
        row: dict[str, Any] = {"repo": about["repo"], "licence": about["licence"]}
        with tempfile.TemporaryDirectory() as folder:
            try:
                row |= row_of(place, Path(folder))
            except HydraoptError as error:
                # Paths of the run are no part of a result.
                row["refused"] = str(error).replace(str(args.adapters), "").partition(" [file")[0]
        rows.append(row)
        print(row)
    write_result(QUALITY, "real", head, rows)
