"""Adapters of the small model, coded parts, prompts of tasks, and commands on all of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.adapters import Adapter
from hydraopt.cli.main import cli
from hydraopt.codec import CodedModule, Factors, read_record
from hydraopt.merging import HarmSettings, MeasuredHarm
from hydraopt.model import AnswerJudge, TaskFactors, prompt_text
from tests.basemodel.cases import factors_of
from tests.conftest import write_adapter

NAMES = ("en", "fr")
SHORT = HarmSettings(steps=24, judge_after=(8, 16, 24), learning_rate=0.02)


def adapters_at(folder: Path, size: float = 0.3, **seeds: int) -> list[Adapter]:
    """Adapters by these names, whose factors are drawn with the seeds."""
    drawn = {name: factors_of(seed, size) for name, seed in seeds.items()}
    return read_adapters([write_adapter(folder / name, x) for name, x in drawn.items()])


def coded_of(folder: Path, size: str = "40%", form: str | None = None):
    """(originals, records) of the first of three adapters, as a merge to ``size`` codes it."""
    adapters = adapters_at(folder, 0.02, t0=0, t1=1, t2=2)
    merge(adapters, folder / "x", size=size, forms=form and [form])
    bundle = open_bundle(folder / "x")
    modules = bundle.manifest.tasks[0].modules
    reader = bundle.open_stream("task/0", len(modules))
    coded = {}
    for index in modules:
        entry, bases = bundle.manifest.modules[index], bundle.bases(index)
        record = read_record(reader, entry.m, entry.n, bases)
        reader.end_record()
        if record is not None:
            coded[entry.path] = CodedModule(record, *bases)
    return {p: x.factors() for p, x in adapters[0].modules.items()}, coded


def measured(
    judge: AnswerJudge, task: str, factors: TaskFactors, apart: bool = False
) -> MeasuredHarm:
    """The harm of B (m, k) and A (k, n) by path to a task's answers."""
    return judge.measure(task, lambda: {p: Factors(*x) for p, x in factors.items()}, apart=apart)


def same(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether records or factors, by path, are the same numbers."""
    pairs = [
        [getattr(x[path], "factors", x[path]) for x in (one, two)] for path in one.keys() & two
    ]
    alike = (np.array_equal(x.B, y.B) and np.array_equal(x.A, y.A) for x, y in pairs)
    return one.keys() == two.keys() and all(alike)


def spelling(count: int) -> list[str]:
    """Prompts as text."""
    return [f"Spell.\n{i}\n=>" for i in range(count)]


def rows(numbers: Iterable[int]) -> list[str]:
    """Prompts of a task's rows, of which the small model has learned some."""
    return [prompt_text("Spell.", str(i)) for i in numbers]


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def laid_out(folder: Path, trained, size: float, asked: Sequence[str] = NAMES) -> Path:
    """base/, adapters/en and adapters/fr, and twelve prompts of those that are asked."""
    for part in trained:
        part.save_pretrained(folder / "base")
    adapters_at(folder / "adapters", size, en=0, fr=1)
    (folder / "prompts").mkdir()
    for name in asked:
        (folder / "prompts" / f"{name}.jsonl").write_text(lines(*spelling(12)))
    return folder


def run(*command: object) -> Result:
    return CliRunner().invoke(cli, [str(x) for x in command])


def call(
    place: Path,
    *more: object,
    verb: str = "merge",
    bundle: Path | None = None,
    names: Sequence[str] = NAMES,
    asked: bool = True,
) -> Result:
    """A command on some adapters of a folder that is laid out, with its base.

    asked: whether with its prompts.
    """
    inputs = [*([bundle] if bundle else []), *(place / "adapters" / name for name in names)]
    prompts = ["--prompts", place / "prompts"] if asked else []
    return run(verb, *inputs, "--base", place / "base", *prompts, *more)
