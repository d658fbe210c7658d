"""``hydraopt eval``: adapters and bundles, task by task, against the originals and the base."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter, read_adapters
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.model import Pair, load_model
from hydraopt.evaluate.provenance import versions
from hydraopt.evaluate.run import Progress, Scores, TaskRows, encode_task, run_task
from hydraopt.evaluate.taskfile import read_task_file, task_of
from hydraopt.inspect.kind import is_bundle

__all__ = ["SCHEMA", "Request", "Sources", "evaluate", "read_sources"]

SCHEMA = "hydraopt.eval/1"
BASE = "base"
ORIGINAL = "original"
_PACKAGES = ("hydraopt", "numpy", "torch", "transformers", "sacrebleu", "scikit-learn")


@dataclass(frozen=True)
class Sources:
    """What is compared: adapters as they are, and bundles, by the name of their file."""

    adapters: Mapping[str, Adapter]
    bundles: Mapping[str, Bundle]
    folders: Mapping[str, Path | None] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every adapter's name, of the originals and of the bundles."""
        found = dict.fromkeys(self.adapters)
        for bundle in self.bundles.values():
            found |= dict.fromkeys(bundle)
        return list(found)

    def check(self) -> None:
        """Raise UsageError for a task that is more than low-rank factors; nothing is decoded."""
        extras: list[tuple[str, list[str]]] = [
            (name, sorted(adapter.extras)) for name, adapter in self.adapters.items()
        ]
        for bundle in self.bundles.values():
            extras += [(name, sorted(bundle[name].entry.extra_kinds)) for name in bundle]
        for name, keys in extras:
            if keys:
                raise _more_than_factors(name, keys)

    def sets(self, name: str) -> dict[str, dict[str, Pair]]:
        """The factors called ``name``: the base's (none), the original's, each bundle's."""
        found: dict[str, dict[str, Pair]] = {BASE: {}}
        if name in self.adapters:
            modules = self.adapters[name].modules
            found[ORIGINAL] = {path: x.factors() for path, x in modules.items()}
        for label, bundle in self.bundles.items():
            if name in bundle:
                found[label] = {p: (f.B, f.A) for p, f in bundle[name].factors().items()}
        return found


def _more_than_factors(name: str, keys: Sequence[str]) -> UsageError:
    return UsageError(
        explain(
            f"adapter {name} is more than low-rank factors",
            got=f"{len(keys)} further tensors, {keys[0]} among them",
            expected="LoRA pairs of linear modules alone",
            do="Export it and score it with PEFT",
        )
    )


def read_sources(paths: Sequence[str], same_base: bool = False) -> Sources:
    """Adapters and bundles among ``paths``, told apart by content. Raises HydraoptError."""
    bundles = [path for path in paths if is_bundle(path)]
    others = [path for path in paths if path not in bundles]
    adapters = read_adapters(others, same_base=same_base) if others else []
    labels = {Path(path).name: open_bundle(path) for path in bundles}
    if len(labels) != len(bundles):
        raise UsageError(explain("two bundles have one file name", got=", ".join(bundles)))
    for adapter in adapters:
        adapter.check_finite()
    return Sources(
        {adapter.name: adapter for adapter in adapters},
        labels,
        {adapter.name: adapter.source.parent for adapter in adapters},
    )


@dataclass(frozen=True)
class Request:
    """How to evaluate. tasks: the folder of task folders. task_of: adapter name to "TASK/LANGUAGE",
    where its name or score.json does not tell. rows, tokens: limits, None for all. write: generate
    answers for metrics that need them. seed: of the bootstrap."""

    base: str
    tasks: Path
    task_of: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    rows: int | None = None
    tokens: int | None = None
    write: bool = True
    seed: int = 0


def evaluate(
    sources: Sources, request: Request, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON (schema hydraopt.eval/1, docs/evaluation.md)."""
    started = time.monotonic()
    sources.check()
    names = sources.names()
    unknown = sorted(set(request.task_of) - set(names))
    if unknown:
        raise UsageError(
            explain(
                "a task is named for an adapter that is not there",
                got=", ".join(unknown),
                expected=", ".join(names),
            )
        )
    wanted = {}
    for name in names:
        said = request.task_of.get(name)
        if said is not None and said.count("/") != 1:
            raise UsageError(explain("cannot read the task", got=said, expected="TASK/LANGUAGE"))
        task, language = (
            said.split("/") if said else task_of(name, sources.folders.get(name), request.tasks)
        )
        wanted[name] = read_task_file(request.tasks, task, language, request.split)
    model, tokenizer = load_model(request.base)
    tasks = []
    for name, file in wanted.items():
        rows = encode_task(file, tokenizer, request.rows, request.tokens)
        sets = sources.sets(name)
        reference = ORIGINAL if ORIGINAL in sets else None
        scores = run_task(model, tokenizer, rows, sets, reference, request.write, progress)
        tasks.append({"adapter": name, **_task_result(rows, scores, request.seed)})
    return {
        "schema": SCHEMA,
        "base": {"name": Path(request.base).name, "sha256": _weights_hash(Path(request.base))},
        "bundles": {
            label: {"bytes": bundle.path.stat().st_size, "sha256": _file_hash(bundle.path)}
            for label, bundle in sources.bundles.items()
        },
        "adapters": {name: adapter.content_hash() for name, adapter in sources.adapters.items()},
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in sources.adapters.values()),
        "split": request.split,
        "limits": {"rows": request.rows, "tokens": request.tokens},
        "tasks": tasks,
        "seed": request.seed,
        "versions": versions(_PACKAGES),
        "hardware": {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))},
        "seconds": round(time.monotonic() - started, 1),
    }


def _task_result(rows: TaskRows, scores: Mapping[str, Scores], seed: int) -> dict[str, Any]:
    base, original = scores[BASE], scores.get(ORIGINAL)
    gain = base.loss_per_token - original.loss_per_token if original else 0.0
    found: dict[str, Any] = {}
    for name, score in scores.items():
        mine: dict[str, Any] = {
            "loss": round(score.loss_per_token, 6),
            "exact": round(100 * float(score.exact.mean()), 3),
            "scores": {
                m.name: round(score.score(m), 4) for m in rows.metrics if m.name in score.numbers
            },
        }
        if original and score is not original:
            mine["kl"] = round(score.divergence_per_token, 8)
            mine["agreement"] = round(score.agreement_percent, 4)
            if gain > 0:
                mine["recovery"] = round((base.loss_per_token - score.loss_per_token) / gain, 6)
            changes = {
                m.name: asdict(score.against(original, m, seed))
                for m in rows.metrics
                if m.name in score.numbers
            }
            mine["difference"] = {
                metric: {key: round(value, 4) for key, value in change.items()}
                for metric, change in changes.items()
            }
        found[name] = mine
    return {
        "task": rows.task.name,
        "language": rows.task.language,
        "metric": rows.metrics[0].name,
        "sha256": rows.task.sha256,
        "rows": len(rows.rows),
        "left_out": rows.left_out,
        "tokens": int(base.tokens.sum()),
        "results": found,
    }


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_hash(base: Path) -> str | None:
    """Of the weight files' hashes in order of name; None if the base is no local folder."""
    files = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    together = hashlib.sha256("".join(map(_file_hash, files)).encode())
    return together.hexdigest() if files else None
