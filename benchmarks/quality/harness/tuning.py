"""Choose options of merging methods on validation rows, as their papers do.

The loss of the expected answers decides, teacher-forced, in nats per target token, the mean over a
few tasks. Every method here is linear in its scale, so one merge at scale 1 serves all scales.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals.base import Compressor, Modules, Tasks
from benchmarks.rivals.one_for_all import one_for_all
from hydraopt.evaluate.run import TaskRows, run_task

__all__ = ["GRIDS", "Grid", "best", "chosen", "scaled", "trials", "tune", "tuned_options"]

Options = Mapping[str, float]
Trial = dict[str, Any]
"""method, options with the scale among them, loss (mean over tasks), losses by task, sha256 of the
files that were scored."""

_SUMS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_MEANS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.1, 1.5, 2.0, 3.0)
_DENSE = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Grid:
    """What is tried for a method. scale: the option that multiplies the result, "lam", or "weight",
    that of every task in the sum. scales: its values, 1 / T besides. choices: other options."""

    scale: str
    scales: tuple[float, ...]
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def built(self) -> Iterator[dict[str, float]]:
        """The options that need a merge of their own, at scale 1."""
        for values in itertools.product(*self.choices.values()):
            yield {**dict(zip(self.choices, values, strict=True)), self.scale: 1.0}

    def scales_for(self, tasks: int) -> list[float]:
        """Rising; 1 / T, which makes a mean of a sum, is one of them."""
        return sorted({*self.scales, 1 / tasks})

    def at_edge(self, options: Options, tasks: int) -> list[str]:
        """Options whose value is the first or last of several: more might lie beyond."""
        tried = {**self.choices, self.scale: self.scales_for(tasks)}
        return [
            k for k, v in options.items() if len(tried[k]) > 1 and v in (tried[k][0], tried[k][-1])
        ]


GRIDS: Mapping[str, Grid] = {
    "task-arithmetic": Grid("lam", _SUMS),
    "ties": Grid("lam", _MEANS, {"density": _DENSE}),
    "dare-linear": Grid("weight", _SUMS, {"density": (0.1, 0.5, 0.9)}),
    "dare-ties": Grid("lam", _MEANS, {"density": (0.1, 0.5, 0.9)}),
    "magnitude": Grid("weight", _SUMS, {"density": _DENSE}),
    "della": Grid("lam", _MEANS, {"density": (0.3, 0.7)}),
    "breadcrumbs": Grid("lam", _SUMS, {"beta": (0.5, 0.85), "gamma": (0.993,)}),
    "knots-ties": Grid("lam", _MEANS, {"density": (*_DENSE, 1.0)}),
    "core-ties": Grid("lam", _MEANS, {"density": (*_DENSE, 1.0)}),
    "tsv-m": Grid("lam", (*_SUMS, 1.5, 2.0)),
    "iso-c": Grid("lam", (*_SUMS, 1.5, 2.0)),
    "peft-linear": Grid("weight", _SUMS),
    "peft-ties": Grid("weight", _MEANS, {"density": _DENSE}),
    "peft-svd": Grid("weight", _SUMS),
    "peft-magnitude": Grid("weight", _SUMS, {"density": _DENSE}),
}
"""By method. The defaults are among the values, and those that the documents name of the papers;
the rest is around them, and little of it for methods that look at every entry, whose merges take
minutes. average is task-arithmetic at 1 / T; lora-lego and k-merge have no such
options."""


def trials(
    rank: int, methods: Sequence[str]
) -> dict[str, tuple[str, dict[str, float], Compressor]]:
    """(method, options, row) of every merge that is needed, by the row's label."""
    found = {}
    for method in methods:
        for options in GRIDS[method].built():
            row = one_for_all(method, rank, options)
            found[row.label] = method, options, row
    return found


def scaled(modules: Modules, scale: float) -> dict[str, tuple[Any, Any]]:
    """The same dW's times ``scale``."""
    return {path: (np.float32(scale) * b, a) for path, (b, a) in modules.items()}


def _losses(model: Any, tokenizer: Any, rows: TaskRows, sets: Tasks) -> dict[str, float]:
    scores = run_task(model, tokenizer, rows, sets, write=False)
    return {name: round(score.loss_per_token, 6) for name, score in scores.items()}


def tune(
    built: Mapping[str, tuple[str, Options, Mapping[str, Modules], str]],
    originals: Tasks,
    rows: Mapping[str, TaskRows],
    model: tuple[Any, Any],
    tasks: int,
    known: Sequence[Trial],
    keep: Callable[[list[Trial]], None],
) -> None:
    """Score every merge at every scale of its grid.

    built: by label the method, its options at scale 1, what it made by task, and the sha256 of its
    files. originals, rows: of the tasks that are scored. model: (model, tokenizer). tasks: how many
    were merged. known: trials of an earlier call over the same rows; those of the same files are
    not repeated, and those of methods that were not built stay. keep: called with all trials so far
    after each merge.
    """
    if known:
        done = [x for x in known if x["method"] in ("base", "original")]
    else:
        done = _ends(model, originals, rows)
    live = {(method, sha256) for method, _, _, sha256 in built.values()}
    done += [
        x
        for x in known
        if (x["method"], x.get("sha256")) in live
        or x["method"] not in {"base", "original", *(method for method, _ in live)}
    ]
    have = {(x["method"], x.get("sha256")) for x in done}
    keep(done)
    for method, options, made, sha256 in built.values():
        if (method, sha256) in have:
            continue
        grid = GRIDS[method]
        found: dict[float, dict[str, float]] = {x: {} for x in grid.scales_for(tasks)}
        for task, its in rows.items():
            sets = {repr(x): scaled(made[task], x) for x in found}
            for label, loss in _losses(*model, its, sets).items():
                found[float(label)][task] = loss
        for scale, losses in found.items():
            done.append(_trial(method, {**options, grid.scale: scale}, losses, sha256))
        keep(done)


def _ends(model: tuple[Any, Any], originals: Tasks, rows: Mapping[str, TaskRows]) -> list[Trial]:
    """The base and the original adapters: between which the trials lie."""
    ends: dict[str, dict[str, float]] = {"base": {}, "original": {}}
    for task, its in rows.items():
        for end, loss in _losses(*model, its, {"base": {}, "original": originals[task]}).items():
            ends[end][task] = loss
    return [_trial(end, {}, losses, None) for end, losses in ends.items()]


def _trial(method: str, options: Options, losses: Mapping[str, float], sha256: str | None) -> Trial:
    mean = sum(losses.values()) / len(losses)
    trial = {"method": method, "options": dict(options), "loss": round(mean, 6), "losses": losses}
    return trial | ({"sha256": sha256} if sha256 else {})


def best(tried: Sequence[Trial], method: str) -> Trial | None:
    """The trial of the least loss, the first of equals; what is no number never is."""
    mine = [x for x in tried if x["method"] == method and math.isfinite(x["loss"])]
    return min(mine, key=lambda trial: trial["loss"], default=None)


def chosen(tried: Sequence[Trial], tasks: int) -> dict[str, dict[str, Any]]:
    """By method its best options, their loss, and which of them lie at the edge of the grid."""
    found = {}
    for method, grid in GRIDS.items():
        trial = best(tried, method)
        if trial:
            edge = grid.at_edge(trial["options"], tasks)
            found[method] = {"options": trial["options"], "loss": trial["loss"], "at_edge": edge}
    return found


def tuned_options(path: Path, inputs: str) -> dict[str, Options]:
    """By method the options that a result of --tune chose; none if there is no such file.

    inputs: hash of the adapters that are merged now. Raises SystemExit if others were tuned.
    """
    if not path.is_file():
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["inputs"] != inputs:
        raise SystemExit(
            f"{path.name} was tuned on other adapters\n  expected: {inputs}\n"
            f"  found: {result['inputs']}\n  Tune again (--tune), or remove it"
        )
    return {method: found["options"] for method, found in result["tuned"].items()}
