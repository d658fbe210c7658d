"""Find the limit of the error that keeps the scores, and measure merges without a limit.

    python -m benchmarks.quality default [--adapters DIR] [--again] [--readings]

The scores are those of other runs: of every set, what each size lost, and the error of its worst
task. Between two sizes nothing was scored. What is said of a limit there comes of a law that all
sets share, drop = c error^p: p is fitted to all of them, c to each recipe, and how far p may lie
off says how far the reading may.

Then sets are merged, with the default and to the size that was the default before: those at hand,
redundant ones (ten equal, near copies, ten checkpoints of one run), and with DIR (and its
MANIFEST.json) adapters by other people, one by one. Merges that a run before made with today's code
are kept unless ``--again`` is given. ``--readings`` reads the scores again and merges nothing.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, bundle_hash, provenance, save_json
from benchmarks.quality.real import places
from benchmarks.quality.redundant import checkpoints, near_copies
from benchmarks.quality.sets import DEFAULT, METHOD, SETS, WAYS
from benchmarks.reports.scores import SURE, drops, result_files, row_of
from hydraopt.adapters import Adapter, read_adapter, read_adapters
from hydraopt.collection.opening import verify_bundle
from hydraopt.errors import HydraoptError
from hydraopt.merging.merge import merge
from hydraopt.merging.options import DEFAULT_MAX_ERROR

__all__ = ["LIMITS", "Law", "main", "measured", "readings"]

Row = dict[str, Any]
LIMITS = (0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Limits of the worst task's error that are read off for every recipe."""
BEFORE = "10%"
"""What was merged without a limit before."""
_PLANS = {True: ("sizes", DEFAULT, WAYS), False: ("sizes", "rivals")}
"""Whose scores count, of a set and of other trainings of its recipe."""
_CUTS = (1.0, 0.7, 0.4)
"""Worst errors up to which the law is fitted: the first is shown, the others say what that does."""
_POWERS = np.arange(1.0, 4.001, 0.05)
"""Near zero a score cannot fall faster than answers change, and these follow the error itself."""
_CHI = 3.84
"""What the sum of squares may rise by inside the 95 % interval of one number."""
_NOISES = (0.0, 0.01, 0.03, 0.1)
_COPIES = 10
_WORKED = "date_format-de"
"""The adapter of the forty that near copies are made of."""


def measured(folder: Path = QUALITY) -> list[Row]:
    """A row for each set and size that was scored: errors, and what was lost.

    Other trainings of a recipe count with what was scored of them, beside their rivals as well.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    for name, result in result_files(folder):
        pinned = result["set"] == result["recipe"]
        if result["recipe"] not in SETS or result.get("plan") not in _PLANS[pinned]:
            continue
        for label, method in result["methods"].items():
            if method["method"] != METHOD or not drops(result, label):
                continue
            row, errors = row_of(name, result, label), list(method["errors"].values())
            key = result["set"], row["setting"], row["bytes"]
            if key in rows and rows[key]["test_rows"] >= row["test_rows"]:
                continue  # two plans scored one bundle: more rows count
            rows[key] = {
                "set": result["set"],
                "recipe": result["recipe"],
                "setting": row["setting"],
                "worst_error": max(errors),
                "mean_error": round(sum(errors) / len(errors), 6),
                **{k: row[k] for k in ("bytes", "size_pct", "mean_drop_pct")},
                **{k: row[k] for k in ("mean_drop_interval", "kl", "test_rows")},
            }
    return list(rows.values())


def _spread(row: Mapping[str, Any]) -> float:
    """The standard deviation of a mean drop; that of one row of all where nothing changed."""
    low, high = row["mean_drop_interval"]
    return max(float(high - low) / (2 * SURE), 100 / int(row["test_rows"]))


class Law:
    """drop = c error^p, p alike in all recipes, c >= 0 of each.

    rows: of :func:`measured`; those with larger errors than ``cut`` are left out.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], cut: float = _CUTS[0]) -> None:
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["worst_error"] <= cut:
                self._rows.setdefault(row["recipe"], []).append(row)
        misfit = np.array([self._misfit(power) for power in _POWERS])
        inside = _POWERS[misfit <= misfit.min() + _CHI]
        self.power = round(float(_POWERS[misfit.argmin()]), 2)
        self.powers = round(float(inside[0]), 2), round(float(inside[-1]), 2)

    def factor(self, recipe: str, power: float) -> tuple[float, float]:
        """c of a recipe, and its standard deviation."""
        rows = self._rows[recipe]
        x = np.array([row["worst_error"] ** power for row in rows])
        y = np.array([row["mean_drop_pct"] for row in rows])
        weights = np.array([_spread(row) ** -2 for row in rows])
        whole = float(weights @ x**2)
        return max(float(weights @ (x * y)) / whole, 0.0), 1 / math.sqrt(whole)

    def drop(self, recipe: str, limit: float) -> tuple[float, float, float]:
        """Percent of the score lost at a limit of the error: as the law says; and from the least
        to the most that a power inside its interval and a factor inside its own say."""
        ends = []
        for power in (self.power, *self.powers):
            c, spread = self.factor(recipe, power)
            ends += [(c + side * SURE * spread) * limit**power for side in (-1, 0, 1)]
        return ends[1], max(min(ends), 0.0), max(ends)

    def _misfit(self, power: float) -> float:
        whole = 0.0
        for recipe, rows in self._rows.items():
            c, _ = self.factor(recipe, power)
            for row in rows:
                off = row["mean_drop_pct"] - c * row["worst_error"] ** power
                whole += (off / _spread(row)) ** 2
        return whole


def _size_at(rows: Sequence[Mapping[str, Any]], limit: float) -> float | None:
    """Percent of the fp16 bytes, linear in the logarithm of the error between sizes; None outside.

    A bit more of each number halves the error, so that is nearly the law between two of them.
    """
    points = sorted((math.log(row["worst_error"]), row["size_pct"]) for row in rows)
    x = [error for error, _ in points]
    if not x[0] <= math.log(limit) <= x[-1]:
        return None
    return float(np.interp(math.log(limit), x, [size for _, size in points]))


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Of every limit and recipe: size and drop, read between what was scored; and what was scored
    next above and below, if there is any."""
    laws = [Law(rows, cut) for cut in _CUTS]
    for limit, recipe in itertools.product(LIMITS, SETS):
        mine = [row for row in rows if row["set"] == recipe]
        size = _size_at(mine, limit) if mine else None
        if size is None:
            continue
        fp16 = mine[0]["bytes"] / mine[0]["size_pct"]
        drop, least, most = laws[0].drop(recipe, limit)
        above = [row for row in mine if row["worst_error"] > limit]
        below = [row for row in mine if row["worst_error"] <= limit]
        yield {
            "limit": limit,
            "recipe": recipe,
            "size_pct": round(size, 2),
            "bytes": round(size * fp16),
            "drop_pct": round(drop, 3),
            "drop_range": [round(least, 3), round(most, 3)],
            "drop_by_cut": [round(law.drop(recipe, limit)[0], 3) for law in laws],
            "scored_above": min(above, key=lambda x: x["worst_error"], default={}).get("setting"),
            "scored_below": max(below, key=lambda x: x["worst_error"], default={}).get("setting"),
        }


def _one_merge(adapters: Sequence[Adapter], path: Path, **limit: Any) -> Row:
    """What a merge made. cpu_seconds: of all cores, without what one other program takes."""
    wall, cpu = time.monotonic(), time.process_time()
    made = merge(adapters, path, **limit)
    seconds, of_cores = time.monotonic() - wall, time.process_time() - cpu
    errors = list(made.errors.values())
    return {
        "bytes": made.size,
        "size_pct": round(100 * made.fraction, 3),
        "worst_error": round(max(errors), 5),
        "mean_error": round(sum(errors) / len(errors), 5),
        "passes": made.passes,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(of_cores, 2),
    }


def _compared(name: str, kind: str, adapters: Sequence[Adapter]) -> Row:
    """A set with the default and to the size before."""
    row: Row = {"name": name, "kind": kind, "adapters": len(adapters)}
    row["fp16_bytes"] = 2 * sum(adapter.numbers for adapter in adapters)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hydra.safetensors"
        row["default"] = _one_merge(adapters, path)
        row["verified"] = verify_bundle(path, adapters).ok
        try:
            row["before"] = _one_merge(adapters, path, size=BEFORE)
        except HydraoptError as error:
            row["before"] = {"refused": str(error).partition("\n")[0].partition(";")[0]}
    return row


Makes = Callable[[Path], Sequence[Adapter]]
"""Adapters that may be written to a folder first."""


def _sets() -> Iterator[tuple[str, str, Makes]]:
    """Name, kind and adapters of what lies here, and of redundant sets made of it."""
    zoo = ROOT / "zoo" / "adapters"
    forty = zoo / "gemma3-5x8"
    here = {name: zoo / name for name in SETS if (zoo / name).is_dir()}
    for name, folder in {**here, "examples": ROOT / "examples" / "adapters"}.items():
        yield name, "set", functools.partial(_read_all, folder)
    for noise in _NOISES:
        name = f"{_COPIES} copies, {100 * noise:g} % off" if noise else f"{_COPIES} equal"
        copied = functools.partial(near_copies, forty / _WORKED, count=_COPIES, noise=noise)
        yield name, "redundant", copied
    yield f"{_COPIES} checkpoints", "redundant", functools.partial(checkpoints, count=_COPIES)


def _others(folder: Path) -> Iterator[tuple[str, str, Makes]]:
    """Adapters by other people, one by one."""
    for about, place in places(folder):
        # A file's first folder may name the repository again.
        file = about["file"].removeprefix(about["repo"].replace("/", "__") + "/")
        yield f"{about['repo']}/{file}", "alone", functools.partial(_read, place)


def _read_all(folder: Path, _: Path) -> list[Adapter]:
    return read_adapters([str(folder / "*")])


def _read(place: Path, _: Path) -> list[Adapter]:
    return [read_adapter(place)]


def _code() -> str:
    """Hash of what the default makes of the examples: where that is the same, merges are kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hydra.safetensors"
        merge(ROOT / "examples" / "adapters" / "*", path)
        return f"{bundle_hash()}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--adapters", type=Path, help="adapters by other people")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--readings", action="store_true")
    parser.add_argument("--out", type=Path, default=QUALITY / "default.json")
    args = parser.parse_args(arguments)
    rows = measured()
    result = {
        **provenance("the error limit of a merge without one", seed=0),
        "limit": {"max_error": DEFAULT_MAX_ERROR},
        "laws": [
            {"up_to_error": cut, "power": law.power, "powers": law.powers}
            for cut, law in ((cut, Law(rows, cut)) for cut in _CUTS)
        ],
        "readings": list(readings(rows)),
        "measured": rows,
    }
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    if args.readings:
        # The file is still that of the run whose merges it holds.
        made = ("command", "versions", "hardware", "code", "merges")
        save_json(args.out, result | {key: before[key] for key in made if key in before})
        return
    result["code"] = _code()
    kept = before.get("code") == result["code"] and not args.again
    known = {row["name"]: row for row in (before.get("merges", ()) if kept else ())}
    merges: list[Row] = []
    for name, kind, made in (*_sets(), *(_others(args.adapters) if args.adapters else ())):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = known.pop(name, None) or _compared(name, kind, made(Path(folder)))
            except HydraoptError as error:
                # Paths of the run are no part of a result.
                said = str(error).replace(str(args.adapters), "").partition(" [file")[0]
                row = {"name": name, "kind": kind, "refused": said}
        merges.append(row)
        print(row, flush=True)
        save_json(args.out, result | {"merges": [*merges, *known.values()]})
    save_json(args.out, result | {"merges": [*merges, *known.values()]})
