"""``hydraopt merge``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.common import (
    check_target,
    emit_json,
    factor,
    json_option,
    percent,
    progress_bar,
    quiet_option,
    say,
    show_table,
    size_text,
    threads_option,
)

if TYPE_CHECKING:
    from hydraopt.merging.merge import MergeResult
    from hydraopt.progress import Progress

__all__ = ["merge"]

DEFAULT_MEASURE = "bias-aware"


class Setting(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = str(value).partition("=")
        if not (key and equals and text):
            self.fail(f"{value!r} is not KEY=VALUE, as in density=0.3", param, ctx)
        return key, text


class Importance(click.ParamType[tuple[str, float]]):
    """TASK=NUMBER; the task's name may hold "=" itself."""

    name = "TASK=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        task, equals, number = str(value).rpartition("=")
        try:
            return task if equals and task else self.fail(f"{value!r} has no '='"), float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is not a number, as in numbers-de=2", param, ctx)


class Prompts(click.ParamType[tuple[str, str]]):
    """TASK=FILE; the task's name may not hold "=", the file's may."""

    name = "TASK=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        task, equals, file = str(value).partition("=")
        if not (equals and task and file):
            self.fail(f"{value!r} is not TASK=FILE, as in numbers-de=prompts.txt", param, ctx)
        return task, file


@dataclass(frozen=True)
class _Asked:
    """The options of a merge, held against each other. Raises click's errors."""

    size: str | None
    error: float | None
    max_error: float | None
    lossless: bool
    weights: tuple[tuple[str, float], ...]
    fair: bool
    measure: str
    forms: tuple[str, ...]
    base: str | None
    prompted: tuple[tuple[str, str], ...]
    method: str | None
    heads: int | None
    rank: int | None
    solver: str | None
    settings: tuple[tuple[str, str], ...]
    exact: tuple[str, ...]
    same_base: bool
    alpha: float | None
    threads: int | None

    def __post_init__(self) -> None:
        if len(self.importance) != len(self.weights):
            raise click.BadParameter("a task is named twice", param_hint="--weight")
        if len(self.prompts) != len(self.prompted):
            raise click.BadParameter("a task is named twice", param_hint="--prompts")
        if self.prompts and self.base is None:
            raise click.BadParameter("give the base model as well: --base", param_hint="--prompts")
        if self.base is not None and self.lossless:
            raise click.BadParameter("--lossless leaves nothing to weigh", param_hint="--base")
        numbers = (self.heads is not None) + (self.rank is not None)
        if len(self.method_options) != len(self.settings) + numbers:
            raise click.BadParameter("an option is named twice", param_hint="--option")
        if self.method is None and (self.method_options or self.solver):
            raise click.UsageError("--heads, --rank, --solver and --option need --method")
        limits = self.size or self.lossless or self.forms or self.fair or self.threads or self.exact
        given = (self.error, self.max_error, self.base) != (None, None, None)
        if self.method is not None and (limits or given or self.measure != DEFAULT_MEASURE):
            raise click.UsageError(
                "--method has no size, limit, form, measure, base, threads or exact: what it makes "
                "is stored"
            )

    @property
    def importance(self) -> dict[str, float]:
        """By task; for a method, its weights."""
        return dict(self.weights)

    @property
    def prompts(self) -> dict[str, str]:
        """Files of prompts by task."""
        return dict(self.prompted)

    @property
    def method_options(self) -> dict[str, str]:
        """Options of the method, as text."""
        numbers = {"heads": self.heads, "rank": self.rank}
        own = {name: str(value) for name, value in numbers.items() if value is not None}
        return {**dict(self.settings), **own}


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="OUT", help="The bundle to write.")
@click.option("--size", help="Limit of the whole file: 5% (of the inputs' fp16 bytes), 3MB, bytes.")
@click.option("--error", type=float, help="Limit of the relative error, mean over tasks: 0.2.")
@click.option("--max-error", type=float, help="Limit of the relative error of the worst task.")
@click.option("--lossless", is_flag=True, help="Every tensor comes back bit for bit.")
@click.option(
    "--weight",
    "weights",
    type=Importance(),
    multiple=True,
    help="How much a task's error counts, default 1; repeat for more tasks. With --method: the "
    "method's own weights.",
)
@click.option("--fair", is_flag=True, help="Bring all tasks to the same error.")
@click.option(
    "--measure",
    default=DEFAULT_MEASURE,
    show_default=True,
    help="What an error costs: frobenius, bias-aware, absolute or displacement.",
)
@click.option(
    "--form",
    "forms",
    multiple=True,
    help="Permit only these: private, shared-input, shared-output, two-sided, predicted. Repeat "
    "for several; default all.",
)
@click.option(
    "--base",
    help="The base model, a folder or OWNER/NAME that transformers loads: see on text that each "
    "adapter writes which of its modules matter.",
)
@click.option(
    "--prompts",
    "prompted",
    type=Prompts(),
    multiple=True,
    help="See it on the answers to these prompts, no labels, and fit the coded parts to the "
    "answers; needs --base. One a line, exactly as the model gets them; for prompts of several "
    "lines a .jsonl file of strings. Eight or more.",
)
@click.option(
    "--method",
    help="Run a method of the literature instead of hydraopt's own coder; see hydraopt methods.",
)
@click.option("--heads", type=int, help="M of --method hydraopt: 1 (one adapter) to T, default T.")
@click.option("--rank", type=int, help="Rank of what the method makes.")
@click.option("--solver", help="Of --method hydraopt: exact (default) or gradient.")
@click.option(
    "--option", "settings", type=Setting(), multiple=True, help="An option of the method; repeat."
)
@click.option(
    "--exact",
    multiple=True,
    metavar="PATTERN",
    help="Keep tensors whose keys match PATTERN (with * and ?) bit by bit; else heads, embeddings "
    "and the like are coded too. May be given again.",
)
@click.option("--same-base", is_flag=True, help="All were trained on one base, whatever they say.")
@click.option("--alpha", type=float, help="lora_alpha of files that do not state theirs.")
@click.option("--force", is_flag=True, help="Replace OUT even if it is not a bundle.")
@threads_option
@json_option
@quiet_option
def merge(
    adapters: tuple[str, ...],
    output: str,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Merge ADAPTERS (folders, files, globs, NAME=PATH) of one base model into one bundle.

    Give one limit at most: --size, --error, --max-error or --lossless; the default is
    --max-error 0.05 (docs/evidence says what that keeps, and what sizes cost). The file is never
    larger than --size. A bundle at OUT is replaced in one step, once the new one is complete; any
    other file there is kept unless --force is given.

    With --method the bundle holds what that method makes, in fp16, what tasks share once: one
    adapter for all, or for hydraopt one A' and the heads of each module.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt merge de=run1/best fr=run2/best --error 0.2 --weight de=2 -o two.hydra.safetensors
      hydraopt merge adapters/* --base BASE --prompts dates=dates.txt -o seen.hydra.safetensors
      hydraopt merge adapters/* --method hydraopt --heads 4 --rank 16 -o heads.hydra.safetensors
      hydraopt merge adapters/* --method ties --option density=0.3 -o one.hydra.safetensors
    """
    check_target(output, force)
    asked = _Asked(**options)
    if asked.method is not None:
        _combined(adapters, output, asked.method, asked, as_json)
        return
    started = time.monotonic()
    with progress_bar(quiet or as_json) as progress:
        result = _merged(adapters, output, asked, progress)
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.inspect.bundle import task_rows

    # What was seen with the base model takes its time as well.
    result = dataclasses.replace(result, seconds=time.monotonic() - started)
    show_result("hydraopt.merge/1", result, task_rows(open_bundle(output)), as_json)


def _merged(
    adapters: tuple[str, ...], output: str, asked: _Asked, progress: Progress | None
) -> MergeResult:
    """``merge`` without a method."""
    from hydraopt.adapters import read_adapters
    from hydraopt.merging.merge import merge as merge_adapters

    opened: Sequence[Any] = adapters
    onlooker = None
    if asked.base is not None:
        opened = read_adapters(adapters, same_base=asked.same_base, alpha=asked.alpha)
        from hydraopt.basemodel.onlooker import Onlooker
        from hydraopt.basemodel.prompts import read_prompts

        texts = {task: read_prompts(file) for task, file in asked.prompts.items()}
        onlooker = Onlooker(asked.base, opened, texts, progress)
    return merge_adapters(
        opened,
        output,
        size=asked.size,
        error=asked.error,
        max_error=asked.max_error,
        lossless=asked.lossless,
        importance=asked.importance,
        fair=asked.fair,
        measure=asked.measure,
        sensitivity=onlooker.sensitivities() if onlooker else None,
        rescaler=onlooker.gains if onlooker and asked.prompts else None,
        forms=asked.forms or None,
        same_base=asked.same_base,
        alpha=asked.alpha,
        exact=asked.exact,
        base=_base_tensors(asked, opened),
        threads=asked.threads,
        progress=progress,
    )


def _base_tensors(asked: _Asked, opened: Sequence[Any]) -> Any:
    """The base's own tensors, if there is something that could take their place."""
    if asked.base is None or not any(adapter.extras for adapter in opened):
        return None
    from hydraopt.adapters.basefiles import open_base

    return open_base(asked.base)


def show_result(schema: str, result: Any, tasks: list[dict[str, Any]], as_json: bool) -> None:
    """What merge or shrink made.  tasks: rows of hydraopt.inspect.bundle.task_rows."""
    if as_json:
        emit_json({"schema": schema, **result.to_dict(), "tasks": tasks})
        return
    heads = any(row["tensors"] for row in tasks)
    show_table(
        f"{len(tasks)} tasks in {result.path}",
        ["task", "error", *["worst tensor"] * heads, "own bytes", "carried bytes", "fp16 bytes"],
        [
            [
                row["name"],
                f"{row['error']:.4f}",
                *["-" if row["tensor_error"] is None else f"{row['tensor_error']:.4f}"] * heads,
                f"{row['own_bytes']:,}",
                f"{row['carried_bytes']:,}",
                f"{row['fp16_bytes']:,}",
            ]
            for row in tasks
        ],
    )
    for note in result.notes:
        say(f"note: {note}")
    forms = ", ".join(f"{name} {count}" for name, count in result.forms.items()) or "none"
    mean = sum(row["error"] for row in tasks) / max(len(tasks), 1)
    worst = max((row["error"] for row in tasks), default=0.0)
    say(f"errors  {mean:.4f} mean, {worst:.4f} worst (relative, Frobenius)")
    say(f"forms   {forms}; measure {result.measure}")
    say(
        f"size    {result.size:,} bytes ({size_text(result.size)}), {percent(result.fraction)} of "
        f"the fp16 bytes, {factor(result.fraction)} smaller; {result.seconds:.1f} s"
    )


def _combined(
    adapters: tuple[str, ...], output: str, method: str, asked: _Asked, as_json: bool
) -> None:
    """``merge --method``: run it and say what it made."""
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.inspect.bundle import task_rows
    from hydraopt.merging.combine import combine
    from hydraopt.methods.registry import method_named, solver_of

    row = method_named(method) if asked.solver is None else solver_of(method, asked.solver)
    options: dict[str, Any] = {
        name: row.read(name, text) for name, text in asked.method_options.items()
    }
    result = combine(
        adapters,
        output,
        method,
        solver=asked.solver,
        weights=asked.importance,
        same_base=asked.same_base,
        alpha=asked.alpha,
        **options,
    )
    tasks = task_rows(open_bundle(output))
    if as_json:
        emit_json({"schema": "hydraopt.merge.method/1", **result.to_dict(), "tasks": tasks})
        return
    show_table(
        f"{len(tasks)} tasks in {result.path}",
        ["task", "error", "fp16 bytes"],
        [[task["name"], f"{task['error']:.4f}", f"{task['fp16_bytes']:,}"] for task in tasks],
    )
    for note in result.notes:
        say(f"note: {note}")
    errors = list(result.errors.values())
    said = ", ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
    say(f"method  {result.method} ({said}), {row.paper}")
    say(f"errors  {sum(errors) / len(errors):.4f} mean, {max(errors):.4f} worst (relative)")
    say(f"objective {result.objective:.6g} (weighted squared error over that of nothing)")
    say(
        f"size    {result.size:,} bytes ({size_text(result.size)}), {percent(result.fraction)} of "
        f"the fp16 bytes, {factor(result.fraction)} smaller; {result.seconds:.1f} s"
    )
