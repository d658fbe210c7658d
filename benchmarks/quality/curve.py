"""Bytes against relative error and recovery, for each form alone and for the choice per module.

    python -m benchmarks.quality curve --base BASE --tasks TASKS --out RESULT.json ADAPTERS...

Each row of the result is one bundle, really written and read back: its bytes (everything in the
file), the relative error and the recovery of every task, (base - bundle) / (base - adapter) of the
teacher-forced test loss per target token. Rows are added as they are made; a second call goes on
where the first stopped, and refuses a result of another base, measure or code, or of other adapters
or rows. ``--rivals`` scores what rivals.py makes instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import local_folder, package_hash, provenance, save_json
from benchmarks.quality.harness.resumed import gone_on, refuse
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.bundle.reader import open_bundle
from hydraopt.merging.merge import merge
from zoo.score import Scorer, adapter_task, recovery
from zoo.tasks import Row, first_rows, load_task

FORMS = ("all", "private", "shared-input", "shared-output", "two-sided", "predicted")
Factors = Mapping[str, tuple[Any, Any]]


Asked = tuple[Sequence[Row], str]
"""Rows, and the instruction before each."""


def asked_of(adapters: Sequence[Adapter], tasks: Path | None, rows: int) -> dict[str, Asked]:
    """The first test rows of every adapter's task."""
    found: dict[str, Asked] = {}
    for adapter in adapters:
        name, language = adapter_task(local_folder(adapter))
        task = load_task(name, language, tasks)
        found[adapter.name] = first_rows(task.test, rows), task.instruction
    return found


class Judge:
    """Scores factors on the test rows of every task; remembers base and original adapters."""

    def __init__(
        self,
        base: str,
        rows: Mapping[str, Asked],
        adapters: Sequence[Adapter],
        known: Mapping[str, Any],
    ) -> None:
        self.scorer = Scorer(base)
        self.rows = rows
        # The losses of base and originals do not change from call to call.
        self.base: dict[str, float] = dict(known.get("base_loss", {}))
        self.adapter: dict[str, float] = dict(known.get("adapter_loss", {}))
        for adapter in adapters:
            if adapter.name in self.adapter:
                continue
            chosen, instruction = rows[adapter.name]
            self.base[adapter.name] = self.scorer.score_base(chosen, instruction, 80)["nll"]
            factors = {path: module.factors() for path, module in adapter.modules.items()}
            self.adapter[adapter.name] = self.loss(adapter.name, factors)
            print(f"{adapter.name}: base {self.base[adapter.name]:.4f}", end=", ", flush=True)
            print(f"adapter {self.adapter[adapter.name]:.4f}", flush=True)

    def loss(self, task: str, factors: Factors) -> float:
        rows, instruction = self.rows[task]
        import torch

        tensors = {
            path: (
                torch.from_numpy(np.asarray(b, np.float32).copy()),
                torch.from_numpy(np.asarray(a, np.float32).copy()),
            )
            for path, (b, a) in factors.items()
        }
        return float(self.scorer.score_factors(tensors, rows, instruction, 80)["nll"])

    def recovery(self, task: str, factors: Factors) -> float:
        return recovery(self.base[task], self.adapter[task], self.loss(task, factors))


def hydraopt_rows(
    adapters: Sequence[Adapter],
    forms: Sequence[str],
    sizes: Sequence[str],
    done: set[tuple[str, str]],
    measure: str,
) -> Iterator[tuple[dict[str, Any], dict[str, Factors]]]:
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for form in forms:
                if (form, size) in done:
                    continue
                path = Path(folder) / "x.hydra.safetensors"
                chosen = None if form == "all" else [form]
                result = merge(list(adapters), path, size=size, forms=chosen, measure=measure)
                bundle = open_bundle(path)
                factors: dict[str, Factors] = {
                    name: {p: (f.B, f.A) for p, f in bundle[name].factors().items()}
                    for name in bundle
                }
                row: dict[str, Any] = {"method": form, "setting": size, "bytes": result.size}
                row |= {"errors": dict(result.errors), "forms": dict(result.forms)}
                row |= {"merge_seconds": round(result.seconds, 2), "measure": measure}
                yield row, factors


def rival_rows(
    adapters: Sequence[Adapter], done: set[tuple[str, str]]
) -> Iterator[tuple[dict[str, Any], dict[str, Factors]]]:
    from benchmarks.quality.rivals import rivals

    fp16 = 2 * sum(adapter.numbers for adapter in adapters)
    for x in rivals(adapters):
        # What takes more bytes than the originals is no compressor; rivals.json has its error.
        if (x.name, x.setting) not in done and x.factors and x.bytes <= fp16:
            yield {"method": x.name, "setting": x.setting, "bytes": x.bytes}, dict(x.factors)


def summary(values: Mapping[str, float]) -> dict[str, float]:
    """Mean (each task counted as 100 % at most) and worst, in percent."""
    capped = [100 * min(value, 1.0) for value in values.values()]
    return {
        "mean_recovery": round(float(np.mean(capped)), 3),
        "worst_recovery": round(min(capped), 3),
    }


def _begun(
    args: argparse.Namespace, adapters: Sequence[Adapter], rows: Mapping[str, Asked]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result that is there, and what today's head says that its rows are made of.

    SystemExit where it was made of something else.
    """
    files = {
        f"{name}/test": hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        for name, asked in rows.items()
    }
    made_of = {
        "base": args.base,
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in adapters),
        "rows_per_task": args.rows,
        "adapters": {adapter.name: adapter.content_hash() for adapter in adapters},
        "code": package_hash(),
    }
    before, head = gone_on(args.out, made_of, files)
    if before.get("base_loss", rows).keys() != rows.keys():
        refuse(args.out, ["adapters"])
    measures = {row["measure"] for row in before.get("rows", ()) if "measure" in row}
    if measures - {args.measure} and not args.rivals:
        refuse(args.out, ["measure"])
    return before, head


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--base", required=True)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--sizes", default="2.5%,5%,10%")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--measure", default="bias-aware")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = read_adapters(args.adapters)
    rows = asked_of(adapters, args.tasks, args.rows)
    before, made_of = _begun(args, adapters, rows)
    result: dict[str, Any] = {"rows": [], **before}
    done = {(row["method"], row["setting"]) for row in result["rows"]}
    judge = Judge(args.base, rows, adapters, before)
    fp16 = 2 * sum(adapter.numbers for adapter in adapters)
    what = f"bytes, error and recovery on {args.base}, {args.rows} test rows a task"
    result |= provenance(what, seed=0) | made_of
    result |= {"base_loss": judge.base, "adapter_loss": judge.adapter}
    if args.rivals:
        made = rival_rows(adapters, done)
    else:
        made = hydraopt_rows(
            adapters, args.forms.split(","), args.sizes.split(","), done, args.measure
        )
    for row, factors in made:
        started = time.monotonic()
        recovered = {task: judge.recovery(task, factors[task]) for task in judge.rows}
        row["size_pct"] = round(100 * row["bytes"] / fp16, 3)
        row["recovery"] = {task: round(value, 5) for task, value in recovered.items()}
        row |= summary(recovered)
        result["rows"].append(row)
        save_json(args.out, result)
        print(
            f"{row['method']:14} {row['setting']:>8} {row['size_pct']:7.3f} % "
            f"mean {row['mean_recovery']:.2f} worst {row['worst_recovery']:.2f} "
            f"({time.monotonic() - started:.0f} s)",
            flush=True,
        )
