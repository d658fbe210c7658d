"""What others make of the same adapters: bytes on disk, relative errors, and factors to score.

    python -m benchmarks.quality rivals ADAPTERS... [--out FOLDER] [--only NAME,NAME]

Rivals: ``group`` rounds A and B to 8, 4, 3 or 2 bits in groups of 32 with an fp16 scale; ``svd``
truncates every adapter in fp16 at one threshold; and the packages, each in its own environment, at
several k. All are really written and read back. ``--out`` keeps the rebuilt factors as
FOLDER/NAME/SETTING/TASK.safetensors: "PATH.B" (m, r) with the scale inside and "PATH.A" (r, n).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from benchmarks.rivals.base import pack, relative_errors, tasks_of
from benchmarks.rivals.environments import versions_of
from benchmarks.rivals.group import BITS, rounding
from benchmarks.rivals.packages import Rebuilt, ask
from benchmarks.rivals.registry import PACKAGES
from benchmarks.rivals.svd import FRACTIONS, svd_by_energy
from hydraopt.adapters import Adapter, read_adapters

__all__ = ["rivals"]

WRITTEN = {
    "group": [rounding(bits) for bits in BITS],
    "svd": [svd_by_energy(x) for x in FRACTIONS],
}
"""Those that need no package, by name."""
NAMES = (*WRITTEN, *(rival.name for rival in PACKAGES))


def rivals(adapters: Sequence[Adapter], only: Sequence[str] = NAMES) -> Iterator[Rebuilt]:
    """Every rival at every setting, failures included."""
    packages = {rival.name: rival for rival in PACKAGES}
    for name in only:
        if name in packages:
            yield from ask(packages[name], adapters)
            continue
        for row in WRITTEN[name]:
            with tempfile.TemporaryDirectory() as folder:
                found = pack(row, tasks_of(adapters), Path(folder))
            yield Rebuilt(name, row.setting, found.bytes, found.factors, found.write_seconds)


def _save(rival: Rebuilt, folder: Path) -> None:
    place = folder / rival.name / rival.setting.replace(" ", "_").replace("%", "pct")
    place.mkdir(parents=True, exist_ok=True)
    for task, modules in rival.factors.items():
        tensors = {}
        for path, (b, a) in modules.items():
            tensors[f"{path}.B"] = np.ascontiguousarray(b)
            tensors[f"{path}.A"] = np.ascontiguousarray(a)
        save_file(tensors, str(place / f"{task}.safetensors"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--name", default="rivals")
    args = parser.parse_args(arguments)
    adapters = read_adapters(args.adapters)
    fp16 = 2 * sum(adapter.numbers for adapter in adapters)
    head = provenance("bytes on disk and relative error of other methods", seed=None)
    head["versions"] |= versions_of(rival.name for rival in PACKAGES)
    rows = []
    for rival in rivals(adapters, args.only.split(",")):
        row = {"method": rival.name, "setting": rival.setting, "bytes": rival.bytes}
        if rival.failed:
            row["failed"] = rival.failed
            print(f"{rival.name:10} {rival.setting:24} failed: {rival.failed}", flush=True)
        else:
            errors = relative_errors(tasks_of(adapters), rival.factors)
            mean = float(np.mean(list(errors.values())))
            row |= {"size_pct": round(100 * rival.bytes / fp16, 3), "mean_error": round(mean, 6)}
            row["errors"] = {task: round(value, 6) for task, value in errors.items()}
            if rival.seconds is not None:
                row["seconds"] = round(rival.seconds, 2)
            if args.out:
                _save(rival, args.out)
            print(
                f"{rival.name:10} {rival.setting:24} {row['size_pct']:8.3f} % error {mean:.4f}",
                flush=True,
            )
        rows.append(row)
    print(write_result(QUALITY, args.name, head | {"fp16_bytes": fp16}, rows))
