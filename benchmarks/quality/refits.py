"""What refitting coded parts to the original's answers gains, by how it is done.

    python -m benchmarks.quality refits SET --tasks TASKS [--size 3%] [--only ADAPTER ...]
        [--trials NAME ...] [--rows 48] [--threads 1]

The set is merged once to the size. For each adapter and trial its parts in that bundle are trained
(hydraopt.harm.refit) on the original's answers to prompts of the training or the validation
split, coded again at their rate, and measured on test rows, which nothing is chosen by. The result
is saved after every trial, and a second call goes on where the first stopped. It refuses a result
of other adapters, task files or code, of another bundle of that size, or with a trial that is
another one today: benchmarks/results/quality/SET.refits.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, package_hash, provenance, save_json
from benchmarks.quality.evidence import merged, original_adapters, request_for
from benchmarks.quality.harness.inventing import invented
from benchmarks.quality.harness.judging import prompts_of_rows
from benchmarks.quality.harness.resumed import files_of, gone_on, refuse
from benchmarks.quality.sets import SETS, Method
from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import TaskFactors, load_model
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.records import PartsRecord, read_record, write_record
from hydraopt.compress.recode import CodedModule
from hydraopt.harm.drift import Reference, drift_of, reference_of
from hydraopt.harm.lesson import learns_in
from hydraopt.harm.refit import Schedule, refit

__all__ = ["TRIALS", "Trial", "modules_of"]


@dataclass(frozen=True)
class Trial:
    """One way to refit. split, prompts: where the prompts are from, and how many. invented: prompts
    that the base model makes up from these, and that are learned from as well."""

    schedule: Schedule
    split: str = "validation"
    prompts: int = 64
    invented: int = 0


_LONG: Final = Schedule(steps=320, stops=(160, 200, 240, 280, 320))

TRIALS: Final[Mapping[str, Trial]] = {
    "default": Trial(Schedule()),
    "80 steps": Trial(Schedule(steps=80, stops=(40, 60, 80))),
    "strongest alone": Trial(Schedule(coded_rate=None)),
    "one stage": Trial(Schedule(stages=1)),
    "sixteen stages": Trial(Schedule(stages=16)),
    "drawn": Trial(Schedule(rounding="drawn")),
    "none": Trial(Schedule(rounding="none")),
    "slow": Trial(Schedule(rate=0.003)),
    "fast": Trial(Schedule(rate=0.03)),
    "warm": Trial(Schedule(temperature=2.0)),
    "24": Trial(Schedule(), prompts=24),
    "24, 200 invented": Trial(Schedule(), prompts=24, invented=200),
    "trained on": Trial(Schedule(), "train"),
    "trained on, 24": Trial(Schedule(), "train", 24),
    "trained on, 300": Trial(Schedule(), "train", 300),
    "trained on, 1200": Trial(Schedule(), "train", 1200),
    "long": Trial(_LONG),
    "long, trained on, 300": Trial(_LONG, "train", 300),
    "long, trained on, 1200": Trial(_LONG, "train", 1200),
}


def modules_of(bundle: Bundle, name: str) -> dict[str, CodedModule]:
    """The records of a task and the bases beside them, by module path; empty ones left out."""
    entry = next(x for x in bundle.manifest.tasks if x.name == name)
    reader = bundle.open_stream(f"task/{entry.content}", len(entry.modules) + len(entry.tensors))
    coded = {}
    for index in entry.modules:
        module, bases = bundle.manifest.modules[index], bundle.bases(index)
        record = read_record(reader, module.m, module.n, *bases)
        reader.end_record()
        if record is not None:
            coded[module.path] = CodedModule(record, *bases)
    return coded


def _bytes(coded: Mapping[str, CodedModule], records: Mapping[str, PartsRecord]) -> int:
    """Of the task's stream, with these records in the place of its own."""
    writer = ChunkWriter()
    for path, x in coded.items():
        record = records.get(path, x.record)
        write_record(writer, record, (x.left, x.right) != (None, None))
        writer.end_record(record.numbers)
    return len(writer.finish())


class _Asked:
    """Answers of one original to rows of its task, and to prompts made up from these; kept."""

    def __init__(self, model: Any, tokenizer: Any, adapter: Adapter, tasks: Path) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._adapter, self._tasks = adapter, tasks
        self.name = adapter.name
        self.factors: TaskFactors = {p: x.factors() for p, x in adapter.modules.items()}
        self._known: dict[tuple[str, int, int], list[Encoded]] = {}

    def answers(self, split: str, count: int, invented_of: int = 0) -> list[Encoded]:
        """To the first ``count`` rows of a split; or to so many prompts that the base model makes
        up from these."""
        key = split, count, invented_of
        if key not in self._known:
            asked = prompts_of_rows(self._tokenizer, self._adapter, self._tasks, split, count)
            if invented_of:
                asked = invented(self._model, self._tokenizer, asked, invented_of, seed=0)
            self._known[key] = answered(self._model, self._tokenizer, asked, self.factors)
        return self._known[key]


def _measured(
    model: Any,
    test: Reference,
    coded: Mapping[str, CodedModule],
    records: Mapping[str, PartsRecord],
) -> dict[str, Any]:
    factors = {path: records.get(path, x.record).factors for path, x in coded.items()}
    drift = drift_of(model, test, {path: (x.B, x.A) for path, x in factors.items()})
    told = drift.summary()
    shares = {"changed_pct": 100 * told.changed / told.answers, "likely_pct": 100 * told.likely}
    return {
        "answers": told.answers,
        **{key: round(value, 3) for key, value in shares.items()},
        "kl": round(told.kl, 5),
        "kl_error": round(told.kl_error, 5),
    }


def _tried(
    model: Any,
    asked: _Asked,
    coded: Mapping[str, CodedModule],
    test: Reference,
    trial: str,
) -> dict[str, Any]:
    """One refit and what it gives on the test rows."""
    how = TRIALS[trial]
    answers = asked.answers(how.split, how.prompts)
    more = asked.answers(how.split, how.prompts, how.invented) if how.invented else []
    started = time.monotonic()
    made = refit(model, answers, asked.factors, coded, schedule=how.schedule, more=more)
    return {
        "adapter": asked.name,
        "trial": trial,
        "schedule": asdict(how.schedule),
        "split": how.split,
        "prompts": len(answers),
        "asked": _asked_for(how),
        "learned_in": str(learns_in(model)).removeprefix("torch."),
        **({"invented": len(more)} if more else {}),
        "held_out": {"before": asdict(made.before), "after": asdict(made.after)},
        "steps": made.steps,
        "seconds": round(time.monotonic() - started, 1),
        "bytes": {"before": _bytes(coded, {}), "after": _bytes(coded, made.records)},
        "after": _measured(model, test, coded, made.records),
    }


def _asked_for(how: Trial) -> dict[str, int]:
    return {"prompts": how.prompts, "invented": how.invented}


def _same(row: Mapping[str, Any], trial: str) -> bool:
    """Whether a row is of a trial as it is today; what the row does not say is not compared."""
    how = TRIALS[trial]
    now: dict[str, Any] = json.loads(json.dumps(asdict(how.schedule)))
    schedule = {**now, **row["schedule"]}
    return (schedule, row["split"]) == (now, how.split) and (
        row.get("asked", _asked_for(how)) == _asked_for(how)
    )


_BUNDLE = ("code", "options", "bytes")
"""What a bundle's note says of it."""


def _refuse_others(out: Path, before: Mapping[str, Any], args: argparse.Namespace) -> None:
    """SystemExit where a trial that was asked for is in the result as it was another day."""
    rows = before.get("rows", {})
    known = {
        trial: rows[key]
        for name in args.only
        for trial in args.trials
        if (key := _key(name, trial, args)) in rows
    }
    refuse(out, [f"trial {trial!r}" for trial, row in known.items() if not _same(row, trial)])


def _refuse_bundle(out: Path, before: Mapping[str, Any], size: str, note: Any) -> None:
    """SystemExit where the result's rows of this size are of another bundle."""
    old = before.get("bundles", {}).get(size, {})
    now = json.loads(json.dumps(note))
    refuse(out, [f"{key} of {size}" for key in _BUNDLE if key in old and old[key] != now[key]])


def _key(name: str, trial: str, args: argparse.Namespace) -> str:
    return f"{name} {args.size} {trial} {args.rows}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--size", default="3%")
    parser.add_argument("--only", nargs="+", required=True, metavar="ADAPTER")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=["default"])
    parser.add_argument("--rows", type=int, default=48, help="test rows of a task")
    parser.add_argument("--threads", type=int, help="of the processor; default all")
    parser.add_argument("--out", type=Path, help="instead of the set's result")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    adapters = {adapter.name: adapter for adapter in original_adapters(args.set)}
    if unknown := sorted(set(args.only) - adapters.keys()):
        raise SystemExit(f"{args.set} has no adapter {', '.join(unknown)}")
    wanted = [adapters[name] for name in args.only]
    out = args.out or QUALITY / f"{args.set}.refits.json"
    made_of = {
        "set": args.set,
        "products": "bfloat16",
        "adapters": {name: adapter.content_hash() for name, adapter in adapters.items()},
        "code": package_hash(),
    }
    splits = {"test", *(TRIALS[trial].split for trial in args.trials)}
    files = files_of(wanted, args.tasks, sorted(splits))
    before, _ = gone_on(out, made_of, files)
    _refuse_others(out, before, args)
    method = Method("hydraopt", args.size)
    path, note = merged(args.set, [*adapters.values()], method, args.tasks)
    _refuse_bundle(out, before, args.size, note)
    bundle = open_bundle(path)
    model, tokenizer = load_model(request_for(args.set, args.tasks, None, "bfloat16").base)
    head = provenance(f"{args.set}: harm on test rows before and after a refit")

    def save(key: str, row: Mapping[str, Any]) -> None:
        # Another process may have added rows to the file, or begun it.
        now, said = gone_on(out, made_of, files)
        rows = {**now.get("rows", {}), key: row}
        bundles = {**now.get("bundles", {}), args.size: note}
        save_json(out, {**head, **said, "bundles": bundles, "rows": rows})

    with products_of("bfloat16"):
        for adapter in wanted:
            asked = _Asked(model, tokenizer, adapter, args.tasks)
            coded = modules_of(bundle, adapter.name)
            test = reference_of(model, asked.answers("test", args.rows), asked.factors)
            found = _measured(model, test, coded, {})
            print(adapter.name, args.size, "before", found, flush=True)
            for trial in args.trials:
                key = _key(adapter.name, trial, args)
                if key in gone_on(out, made_of, files)[0].get("rows", {}):
                    continue
                row = _tried(model, asked, coded, test, trial)
                row |= {"size": args.size, "before": found}
                print(adapter.name, trial, row["after"], row["steps"], row["seconds"], flush=True)
                save(key, row)


if __name__ == "__main__":
    main()
