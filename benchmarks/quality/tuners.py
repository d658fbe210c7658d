"""Merge and restore every kind of adapter that PEFT makes, and compare the logits of the model.

    python -m benchmarks.quality tuners

Each is made by PEFT on a tiny model with random weights, merged alone, verified, exported and
loaded by PEFT again. The error of the logits is relative to what the original adapter changes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from benchmarks.quality.peft_adapters import CASES, Case, loaded_logits, make
from hydraopt.adapters import read_adapter
from hydraopt.adapters.tuners import TUNERS
from hydraopt.bundle import open_bundle, verify_bundle
from hydraopt.errors import AdapterFormatError
from hydraopt.merging import merge

ERROR = 0.02
"""What is coded may be that far off, so that the logits are comparable."""


def row_of(case: Case, base: Any, folder: Path, error: float) -> dict[str, Any]:
    """Return the row of one adapter's way into a bundle and out again."""
    original, bundle, export = folder / "original", folder / "one.hydra.safetensors", folder / "out"
    make(case, original)
    row: dict[str, Any] = {"case": case.name, "tuner": case.tuner}
    try:
        adapter = read_adapter(original)
    except AdapterFormatError as refusal:
        # Paths of the run are no part of a result.
        reason = str(refusal).replace(str(original), "").partition(" [file")[0]
        return {**row, "refused": reason}
    result = merge([adapter], bundle, max_error=error)
    report = verify_bundle(bundle, [adapter])
    task = open_bundle(bundle)[adapter.name]
    task.save_pretrained(export)
    wanted, got = loaded_logits(case, original), loaded_logits(case, export)
    change = float(np.linalg.norm(wanted - base))
    return {
        **row,
        "treatment": TUNERS.get(case.name, TUNERS[case.tuner]).treatment,
        "modules": len(adapter.modules),
        "tensors": dict(sorted(Counter(adapter.extra_kinds.values()).items())),
        "verified": report.ok,
        "fp16_bytes": result.fp16_bytes,
        "bytes": result.size,
        "error": result.errors[adapter.name],
        "change": change / float(np.linalg.norm(base)),
        "logits_error": float(np.linalg.norm(got - wanted)) / change,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--error", type=float, default=ERROR)
    parser.add_argument("--case", action="append", help="only this one; writes nothing")
    args = parser.parse_args(arguments)
    head = provenance("each of PEFT's tuners, merged alone and exported", seed=1)
    models = {
        kind: loaded_logits(Case(kind, "LORA", model=kind), None)
        for kind in sorted({case.model for case in CASES})
    }
    rows = []
    for case in CASES:
        if args.case and case.name not in args.case:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = row_of(case, models[case.model], Path(folder), args.error)
        rows.append(row)
        print(row)
    if not args.case:
        write_result(QUALITY, "tuners", {**head, "max_error": args.error}, rows)
