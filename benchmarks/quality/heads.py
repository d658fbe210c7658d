"""What do trained heads cost, in bytes, and their rounding, in labels that flip?

    python -m benchmarks.quality heads --tasks TASKS --rows 300          # bundles and rivals
    python -m benchmarks.quality heads --tasks TASKS --rows 300 --harm   # noise, error of dW

Four text classifications of SmolLM2-135M with a head each (zoo/recipes/smollm2-cls4.json), scored
as `hydraopt eval` does; the published tables have 300 rows of each. Writes
benchmarks/results/quality/heads.json or head-harm.json.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, save_json
from benchmarks.rivals.numbers import grouped
from hydraopt import merge, open_bundle
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.basemodel.model import attached, load_classifier, place
from hydraopt.errors import BudgetError
from hydraopt.evaluate.classify import (
    Classifier,
    encode_texts,
    labels_in,
    run_classification,
    saved_tensors,
)
from hydraopt.evaluate.compared import ORIGINAL
from hydraopt.evaluate.results import task_result
from hydraopt.evaluate.run import Scores, TaskRows
from hydraopt.evaluate.taskfile import read_task_file
from hydraopt.inspect import inspect_bundle
from hydraopt.jsonvalues import to_json
from hydraopt.linalg.shapes import Factors

__all__ = ["heads_rounded", "main", "matched", "without_head"]

BASE = "smollm2-135m-instruct"
SIZES = ("10%", "5%")
BITS = (8, 4)
HEAD_ERRORS = (0.02, 0.05, 0.1, 0.2, 0.4)
PAIR_ERRORS = (0.05, 0.1, 0.2, 0.4)
DRAWS = 5  # of the noise, whose figures are means

Saved = Mapping[str, NDArray[np.float32]]


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


def without_head(adapter: Adapter) -> Adapter:
    """Its low-rank modules alone."""
    tensors = {key: x for key, x in adapter.tensors.items() if key not in adapter.extras}
    config = {**adapter.config, "modules_to_save": None, "task_type": None}
    return replace(adapter, extras={}, extra_kinds={}, tensors=tensors, config=config)


def heads_rounded(saved: Saved, bits: int) -> tuple[dict[str, NDArray[np.float32]], int]:
    """The saved tensors in groups of few bits, and the bytes that takes."""
    made, taken = {}, 0
    for path, x in saved.items():
        code = grouped(bits)
        arrays = code.encode([x.ravel()])
        taken += sum(part.nbytes for part in arrays.values())
        made[path] = code.decode(arrays, [x.size])[0].reshape(x.shape)
    return made, taken


def matched(known: Mapping[float, float], kl: float) -> float | None:
    """The error at which ``known``, error to KL, has this KL: log-linear between its points."""
    points = sorted((e, x) for e, x in known.items() if x > 0)
    if not points or not points[0][1] <= kl <= points[-1][1]:
        return None
    found = np.interp(np.log(kl), [np.log(x) for _, x in points], [np.log(e) for e, _ in points])
    return float(np.exp(found))


class Scored:
    """The adapters and their rows; a base with a head of as many labels for each."""

    def __init__(self, adapters: Sequence[Adapter], tasks: Path, base: str, rows: int | None):
        self.adapters = {x.name: x for x in adapters}
        self.saved = {x.name: saved_tensors(x.name, x.extras, x.extra_kinds) for x in adapters}
        self._tasks, self._base, self._most = tasks, base, rows
        self._loaded: dict[int, tuple[Any, Any]] = {}

    def original(self, name: str) -> Classifier:
        """The adapter as it is."""
        modules = self.adapters[name].modules
        return Classifier({p: x.factors() for p, x in modules.items()}, self.saved[name])

    def rows(self, name: str) -> tuple[Any, TaskRows]:
        """The base with a head of as many labels, and the adapter's test rows."""
        labels = labels_in(name, self.saved[name])
        if labels not in self._loaded:
            self._loaded = {labels: load_classifier(self._base, labels)}
        model, tokenizer = self._loaded[labels]
        task, _, language = name.rpartition("-")
        return model, encode_texts(
            read_task_file(self._tasks, task, language), tokenizer, labels, self._most
        )

    def score(self, name: str, sets: Mapping[str, Classifier]) -> dict[str, Any]:
        """What `hydraopt eval` says of the adapter and these sets."""
        model, rows = self.rows(name)
        everything = {ORIGINAL: self.original(name), **sets}
        scores = run_classification(model, rows, everything, ORIGINAL)
        result: dict[str, Any] = to_json(task_result(name, rows, scores, 0, True))
        return result


def factors_of(path: Path, name: str) -> dict[str, Any]:
    return {p: (x.B, x.A) for p, x in open_bundle(path)[name].factors().items()}


# --- harm -------------------------------------------------------------------------------------


def harm_of(scored: Scored, name: str, folder: Path) -> dict[str, Any]:
    """KL and flips by the error of the head alone, and of the low-rank parts alone."""
    head: list[dict[str, float]] = []
    sets = {}
    for error in HEAD_ERRORS:
        for draw in range(DRAWS):
            noisy = _noisy(scored.saved[name], error, draw)
            sets[f"head {error} {draw}"] = replace(scored.original(name), saved=noisy)
    found = _on_one_body(scored, name, sets)
    for error in HEAD_ERRORS:
        draws = [found[f"head {error} {draw}"] for draw in range(DRAWS)]
        head.append({"error": error, **_mean(draws)})
    pairs, coded, made = [], {}, {}
    alone = without_head(scored.adapters[name])
    for error in PAIR_ERRORS:
        path = folder / f"{name}-{error}"
        merge([alone], path, error=error)
        coded[error] = errors(path, [alone])[name]
        made[f"dW {error}"] = Classifier(factors_of(path, name), scored.saved[name])
    results = scored.score(name, made)["results"]
    for error in PAIR_ERRORS:
        one = results[f"dW {error}"]
        pairs.append({"error": round(coded[error], 4), "kl": one["kl"], "flips": one["flips"]})
    curve = {x["error"]: x["kl"] for x in head}
    for row in pairs:
        same = matched(curve, row["kl"])
        row["head_error_of_equal_kl"] = None if same is None else round(same, 4)
        row["ratio"] = None if same is None else round(same / row["error"], 3)
    return {
        "adapter": name,
        "labels": labels_in(name, scored.saved[name]),
        "rows": len(scored.rows(name)[1].rows),
        "original": results[ORIGINAL]["scores"],
        "head": head,
        "dW": pairs,
    }


def _noisy(saved: Saved, error: float, draw: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(draw)
    made = {}
    for path, x in saved.items():
        noise = rng.standard_normal(x.shape)
        by = error * np.linalg.norm(x) / np.linalg.norm(noise)
        made[path] = (x + by * noise).astype(np.float32)
    return made


def _on_one_body(
    scored: Scored, name: str, sets: Mapping[str, Classifier]
) -> dict[str, dict[str, float]]:
    """KL and flips of sets that differ in a linear head alone: the body runs once.

    The head of the pass is the identity, so that the logits are the body's states.
    """
    import torch

    from hydraopt.evaluate import classify

    model, rows = scored.rows(name)
    (path,) = scored.saved[name]
    width = scored.saved[name][path].shape[1]
    module = model.get_submodule(path.rpartition(".")[0])
    own, module.weight = module.weight, torch.nn.Parameter(torch.eye(width), requires_grad=False)
    try:
        body = Classifier(scored.original(name).factors, {})
        with torch.inference_mode(), attached(model, place(model, body.factors)):
            states = classify._logits(model, rows.items)
    finally:
        module.weight = own
    wanted = np.zeros(len(rows.rows), int)
    reference = states @ scored.saved[name][path].T.astype(float)
    result = {}
    for label, one in sets.items():
        got: Scores = classify._scores(rows, wanted, states @ one.saved[path].T, reference)
        result[label] = {"kl": got.divergence_per_token, "flips": float((1 - got.agreement).sum())}
    return result


def _mean(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([x[key] for x in draws])), 8) for key in ("kl", "flips")}


# --- bundles and rivals -----------------------------------------------------------------------


def ways(scored: Scored, size: str, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """(row, classifiers by adapter) of every way to a size; no classifiers where it is refused."""
    adapters = list(scored.adapters.values())
    budget = int(sum(2 * x.numbers for x in adapters) * float(size.rstrip("%")) / 100)
    exact = {"exact": ["*score*"]} if "exact" in inspect.signature(merge).parameters else {}
    for way, options in (("hydraopt", {}), ("hydraopt, heads bit by bit", exact)):
        path = folder / f"{way}-{size}"
        try:
            merge(adapters, path, size=size, **options)  # type: ignore[arg-type]
        except BudgetError as error:
            yield {"way": way, "size": size, "refused": str(error)}, None
            continue
        bundle = open_bundle(path)
        sets = {}
        for name in scored.adapters:
            task = bundle[name]
            saved = saved_tensors(name, task.extras, task.extra_kinds)
            sets[name] = Classifier(factors_of(path, name), saved)
        parts = dict(inspect_bundle(path).parts)
        coded = sum(sum(bundle[name].tensor_bytes().values()) for name in scored.adapters)
        row = {"way": way, "size": size, "bytes": path.stat().st_size}
        yield {**row, "head_bytes": coded + parts["carried"], "parts": parts}, sets
    alone = [without_head(x) for x in adapters]
    for bits in BITS:
        rounded = {name: heads_rounded(x, bits) for name, x in scored.saved.items()}
        taken = sum(count for _, count in rounded.values())
        path = folder / f"{bits}-{size}"
        row = {"way": f"heads in {bits} bits", "size": size}
        try:
            merge(alone, path, size=max(1, budget - taken))
        except BudgetError as error:
            yield {**row, "refused": str(error)}, None
            continue
        row |= {"bytes": path.stat().st_size + taken, "head_bytes": taken}
        yield (
            row,
            {n: Classifier(factors_of(path, n), rounded[n][0]) for n in scored.adapters},
        )


def compare(scored: Scored, folder: Path) -> list[dict[str, Any]]:
    """A row for every way and size: bytes, and what eval says of each adapter."""
    made = [one for size in SIZES for one in ways(scored, size, folder)]
    for name in scored.adapters:
        sets = {f"{i}": x[name] for i, (_, x) in enumerate(made) if x is not None}
        result = scored.score(name, sets)
        for i, (row, x) in enumerate(made):
            if x is not None:
                row.setdefault("tasks", {})[name] = result["results"][f"{i}"]
                row.setdefault("originals", {})[name] = result["results"][ORIGINAL]["scores"]
                row["rows"] = row.get("rows", 0) + result["rows"]
    for row, _ in made:
        if "tasks" in row:
            row["flips"] = sum(x["flips"] for x in row["tasks"].values())
            row["kl"] = float(np.mean([x["kl"] for x in row["tasks"].values()]))
    return [row for row, _ in made]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--adapters", default="zoo/adapters/smollm2-cls4/*")
    parser.add_argument("--base", help="folder of the base; default: from its package")
    parser.add_argument("--rows", type=int, help="at most so many test rows of a task")
    parser.add_argument("--harm", action="store_true")
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    if args.base is None:
        from zoo.bases import base_folder

        args.base = str(base_folder(BASE))
    scored = Scored(list(read_adapters([args.adapters])), args.tasks, args.base, args.rows)
    with tempfile.TemporaryDirectory() as scratch:
        if args.harm:
            head = provenance("harm of a head's error against that of dW", seed=0)
            rows = []
            for name in scored.adapters:
                rows.append(harm_of(scored, name, Path(scratch)))
                save_json(args.output / "head-harm.json", {**head, "rows": rows})
                for row in rows[-1]["dW"]:
                    print(name, row, flush=True)
            return
        head = provenance("bundles of classifiers with heads, and rivals", seed=0)
        rows = compare(scored, Path(scratch))
        save_json(args.output / "heads.json", {**head, "rows": rows})
        for row in rows:
            print({key: x for key, x in row.items() if key not in ("tasks", "originals")})
