"""How close does shrinking a bundle come to merging the originals to that size?

    python -m benchmarks.quality shrink --via 10% --sizes 5%,2.5% ADAPTERS...

Both ways end at the same size; the relative errors are measured against the original adapters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.bundle.reader import open_bundle
from hydraopt.editing.shrink import shrink
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.merge import merge


def errors(path: Path, adapters: Sequence[Adapter]) -> dict[str, float]:
    """Relative Frobenius error of each task against its original."""
    bundle = open_bundle(path)
    found = {}
    for adapter in adapters:
        factors = bundle[adapter.name].factors()
        lost = whole = 0.0
        for name, module in adapter.modules.items():
            b, a = module.factors()
            original, got = Factors(b.astype(np.float64), a.astype(np.float64)), factors[name]
            energy = original.squared_norm()
            lost += energy - 2 * original.inner(got) + got.squared_norm()
            whole += energy
        found[adapter.name] = float(np.sqrt(lost / whole))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--via", default="10%")
    parser.add_argument("--sizes", default="5%,2.5%")
    args = parser.parse_args(arguments)
    adapters = read_adapters(args.adapters)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        large, direct, shrunk = (Path(folder) / f"{x}.hydra.safetensors" for x in "abc")
        merge(list(adapters), large, size=args.via)
        for size in args.sizes.split(","):
            one = merge(list(adapters), direct, size=size)
            two = shrink(large, shrunk, size=size)
            row = {"size": size, "via": args.via, "bytes": [one.size, two.size]}
            row["direct"] = errors(direct, adapters)
            row["shrunk"] = errors(shrunk, adapters)
            row["ratio"] = float(
                np.mean([row["shrunk"][x] / row["direct"][x] for x in row["direct"]])
            )
            rows.append(row)
            print(f"{size} via {args.via}: error {row['ratio']:.3f} times that of merging")
    write_result(QUALITY, "shrink", provenance("shrink against merge at one size", seed=0), rows)
