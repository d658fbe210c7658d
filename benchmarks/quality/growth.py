"""Measure bytes per adapter against the number of adapters, at equal quality.

    python -m benchmarks.quality growth [--out FILE.json]

Groups of the forty adapters: unlike ones (all tasks and languages mixed) and like ones (one task in
all languages). For every group and number T of adapters, some draws of T are merged to several
sizes; bytes per adapter at a given error are read off between the sizes (log-linear), and compared
with those that the same adapters take alone. Errors: the relative Frobenius error, and one that is
nearer to harm (``weighted``), each as the mean over adapters. The level compared is what a single
adapter has at 5 % of its fp16 bytes. A second call continues after the last number of adapters that
was finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, bundle_hash, provenance, save_json
from benchmarks.quality.sets import original_adapters
from hydraopt.adapters import Adapter
from hydraopt.bundle import open_bundle
from hydraopt.codec import thin
from hydraopt.merging import merge

Row = dict[str, Any]
SIZES = ("12%", "8%", "5%", "3%", "2%")
DRAWS = {1: 8, 2: 4, 4: 2, 5: 4, 8: 1, 10: 4, 20: 2, 40: 1}
"""Most draws of a number of adapters; no two have an adapter in common."""
MEASURES = ("frobenius", "weighted")


def groups() -> dict[str, tuple[list[Adapter], Sequence[int]]]:
    """Return the adapters of every group, and the numbers that are merged together."""
    shared = original_adapters("gemma3-5x8")
    tasks = sorted({x.name.rpartition("-")[0] for x in shared})
    found: dict[str, tuple[list[Adapter], Sequence[int]]] = {
        "unlike": (shared, (1, 2, 5, 10, 20, 40))
    }
    for task in tasks:
        mine = [a for a in shared if a.name.rpartition("-")[0] == task]
        found[f"like: {task}"] = (mine, (1, 2, 4, 8))
    return found


def errors_of(adapters: Sequence[Adapter], path: Path) -> dict[str, float]:
    """Return the mean over adapters of every measure."""
    bundle = open_bundle(path)
    found = []
    for adapter in adapters:
        original = {p: x.factors() for p, x in adapter.modules.items()}
        back = {p: (f.B, f.A) for p, f in bundle[adapter.name].factors().items()}
        found.append(_measured(original, back))
    return {x: float(np.mean(y)) for x, y in zip(MEASURES, zip(*found, strict=True), strict=True)}


def _measured(original: Mapping[str, Any], back: Mapping[str, Any]) -> tuple[float, float]:
    """Return the values of MEASURES for a task. original, back: B (m, r), A (r, n) by path."""
    wrong = biased = energy = 0.0
    for path, (b, a) in original.items():
        none = np.zeros((b.shape[0], 0)), np.zeros((0, a.shape[1]))
        parts = _parts(np.asarray(b, float), np.asarray(a, float), *back.get(path, none))
        wrong, biased, energy = (x + y for x, y in zip((wrong, biased, energy), parts, strict=True))
    return math.sqrt(wrong / energy), biased / energy


def _parts(b: Any, a: Any, other_b: Any, other_a: Any) -> tuple[float, float, float]:
    """Return |E|^2, its weighted value and |dW|^2, for the error E of a module.

    Weighted: errors along the module's own parts count three times, others inside of its own
    outputs once, those outside of them a quarter. It ranked damages of one task nearly as
    gradients of the base do.
    """
    x = thin(b, a)
    left = np.concatenate([b, -np.asarray(other_b, float)], 1)
    right = np.concatenate([a, np.asarray(other_a, float)], 0)
    ul, rv = x.U.T @ left, right @ x.V
    wrong = max(float(np.sum((left.T @ left) * (right @ right.T))), 0.0)
    inside = float(np.sum((ul.T @ ul) * (right @ right.T)))  # of the module's own outputs
    own = float(np.sum(np.einsum("ik,ki->i", ul, rv) ** 2))
    return wrong, 2 * own + inside + max(wrong - inside, 0.0) / 4, x.energy


def bytes_at(rows: Sequence[Mapping[str, Any]], measure: str, level: float) -> float | None:
    """Return the bytes per adapter at a level of the measure, log-linear between merged sizes."""
    points = sorted((row[measure], row["bytes_per_adapter"]) for row in rows)
    x = [math.log(error) for error, _ in points]
    if not x[0] <= math.log(level) <= x[-1]:
        return None
    return math.exp(float(np.interp(math.log(level), x, [math.log(size) for _, size in points])))


def merged(
    group: str, adapters: Sequence[Adapter], count: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row for every draw of ``count`` adapters and every size."""
    order = random.Random(group).sample(adapters, len(adapters))
    for draw in range(min(DRAWS[count], len(adapters) // count)):
        chosen = order[draw * count : (draw + 1) * count]
        for size in SIZES:
            path = folder / "x.hydra.safetensors"
            made = merge(chosen, path, size=size)
            yield {
                "group": group,
                "adapters": count,
                "names": [x.name for x in chosen],
                "size": size,
                "bytes_per_adapter": made.size / count,
                "size_pct": round(100 * made.fraction, 4),
                "forms": dict(made.forms),
                **{k: round(v, 6) for k, v in errors_of(chosen, path).items()},
            }


def table_of(rows: Sequence[Mapping[str, Any]], levels: Mapping[str, float]) -> list[Row]:
    """Return the bytes of every group and number of adapters, of those of the adapters alone.

    The mean over draws; None where the sizes of none span the level.
    """
    draws: dict[tuple[str, int, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for row in rows:
        draws.setdefault((row["group"], row["adapters"], tuple(row["names"])), []).append(row)
    table = []
    for name, count in dict.fromkeys(x[:2] for x in draws):
        entry: Row = {"group": name, "adapters": count}
        for measure, level in levels.items():
            found = {x: bytes_at(mine, measure, level) for x, mine in draws.items()}
            alone = {x[2][0]: size for x, size in found.items() if x[1] == 1}
            shares = []
            for x, size in found.items():
                own = [y for y in map(alone.get, x[2]) if y is not None]
                if x[:2] == (name, count) and size is not None and len(own) == count:
                    shares.append(size / float(np.mean(own)))
            entry[measure] = round(float(np.mean(shares)), 4) if shares else None
        table.append(entry)
    return table


def code_of(inputs: Mapping[str, Sequence[str]]) -> str:
    """Return a hash of what the rows come of. inputs: content hashes of the adapters by group."""
    made_of = json.dumps([bundle_hash(), inputs, SIZES, list(DRAWS.items())])
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the result file lacks."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--out", type=Path, default=QUALITY / "growth.json")
    args = parser.parse_args(arguments)
    result = provenance("bytes per adapter against the number of adapters", seed=0)
    sets = groups()
    inputs = {name: [a.content_hash() for a in adapters] for name, (adapters, _) in sets.items()}
    result["code"] = code_of(inputs)
    before = json.loads(args.out.read_text()) if args.out.is_file() else {}
    # Where a run was cut off, with the same adapters and merges that write the same, it goes on.
    rows: list[Row] = before["rows"] if before.get("code") == result["code"] else []
    done = {(row["group"], row["adapters"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for name, (adapters, counts) in sets.items():
            for count in counts:
                if (name, count) in done:
                    continue
                rows.extend(merged(name, adapters, count, Path(folder)))
                save_json(args.out, result | {"rows": rows}, "rows")
                print(name, count, flush=True)
    single = [r for r in rows if (r["group"], r["adapters"], r["size"]) == ("unlike", 1, "5%")]
    levels = {measure: float(np.mean([row[measure] for row in single])) for measure in MEASURES}
    table = table_of(rows, levels)
    print(*table, sep="\n")
    save_json(args.out, result | {"levels": levels, "table": table, "rows": rows}, "rows")
