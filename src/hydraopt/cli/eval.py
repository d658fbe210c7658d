"""``hydraopt eval``, and what it prints of probes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hydraopt.cli.options import common_options, force_option, originals_option, same_base_option
from hydraopt.cli.terminal import (
    cannot_combine,
    emit_json,
    needs,
    progress_bar,
    say,
    say_notes,
    show_table,
)
from hydraopt.errors import UsageError, explain
from hydraopt.files import to_json
from hydraopt.notes import Note, counted

if TYPE_CHECKING:
    from hydraopt.evaluate import (
        ChoiceChange,
        Evaluation,
        EvaluationRequest,
        GroupMeasures,
        ProbesAsked,
        Share,
        TaskResult,
    )

_ALL: Final = "all"
_CLEAR: Final = 0.05
_MOST_ROWS: Final = 200
_CORRECTION: Final = (
    "chance level is 50 % for a stereotype; p is corrected by Holm, over all changes of one bundle "
    "on one adapter, and over all its preferences and accuracies"
)


def result_notes(result: Evaluation) -> Iterator[Note]:
    """Yield notes on adapters without scores, and on rows that are left out."""
    left_out = Counter[str]()
    for task in result.tasks:
        if task.skipped is not None:
            text = f"{task.adapter} is not scored: {task.skipped}"
            yield Note("not_scored", text, task.adapter)
        left_out.update(task.left_out_why or {})
    for why, count in left_out.items():
        yield Note("rows_left_out", f"{counted(count, 'row')} left out: {why}")


def show_people(result: Evaluation) -> None:
    """Show changes for groups of people: each probe as a whole, and groups with a clear change."""
    if result.probes is not None:
        _show_probes(result.probes, result.tasks)
    for task in result.tasks:
        if task.probes is not None and not isinstance(task.probes, Mapping):
            say(f"{task.adapter}: no probes: {task.probes.skipped}")


def _show_probes(probes: ProbesAsked, tasks: Sequence[TaskResult]) -> None:
    rows = [
        ["(base)", "base", *_cells(probe, _ALL, groups[_ALL])]
        for probe, groups in probes.base.items()
    ]
    rows += list(_probe_rows(tasks))
    if rows:
        _table(
            "probes: choices that follow a stereotype, % [95 %] of choices that take a side; right "
            "answers, %; flips against the original (towards a stereotype, away from one)",
            ["adapter", "from", "probe", "items", "stereotype", "right", "flips", "p (Holm)",
             "flips to"],
            rows,
        )  # fmt: skip
        say(_CORRECTION)
    if probes.skipped is not None:
        say(f"no probes: {probes.skipped}")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    show_table(title, columns, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS:,} further rows are in --json and -o")


def _probe_rows(tasks: Sequence[TaskResult]) -> Iterator[list[str]]:
    for task in tasks:
        probes = task.probes if isinstance(task.probes, Mapping) else {}
        for probe, by_set in probes.items():
            for label, groups in by_set.items():
                for group, row in groups.items():
                    clear = row.change is not None and row.change.p_holm < _CLEAR
                    if group == _ALL or clear:
                        yield [task.adapter, _short(label), *_cells(probe, group, row)]


def _direction(change: ChoiceChange) -> str:
    """Return the flips to each of two people, if a probe is about two."""
    to = change.people.to if change.people is not None else {}
    return ", ".join(f"{count} {who}" for who, count in to.items()) or "-"


def _cells(probe: str, group: str, row: GroupMeasures) -> list[str]:
    change = row.change
    judged = [x for x in (row.ambiguous, row.disambiguated) if x is not None]
    right = sum(x.accuracy.right for x in judged)
    return [
        probe if group == _ALL else f"{probe}, {group}",
        f"{row.items:,}",
        _interval(row.preference),
        f"{100 * right / row.items:.0f}" if judged else "-",
        f"{change.flips:,} ({change.towards:,}, {change.away:,})" if change else "-",
        f"{change.p_holm:.3f}" if change else "-",
        _direction(change) if change else "-",
    ]


def _interval(share: Share) -> str:
    return f"{share.pct:.0f} [{share.low:.0f}, {share.high:.0f}]"


def _short(label: str) -> str:
    return label.removesuffix(".hydra.safetensors")


@click.command("eval", short_help="Score adapters and bundles on their tasks.")
@click.argument("paths", nargs=-1, required=True, metavar="ADAPTERS|BUNDLE...")
@click.option(
    "--base", required=True, help="Base model: a folder or OWNER/NAME that transformers loads."
)
@click.option(
    "--tasks",
    help="Folder of task folders: TASK/META.json, TASK/LANGUAGE/test.jsonl. Required for "
    "everything except --probes.",
)
@originals_option
@click.option(
    "--task",
    "named",
    multiple=True,
    metavar="ADAPTER=TASK/LANGUAGE",
    help="Task of an adapter, if its name or score.json does not state it.",
)
@click.option(
    "--split", default="test", show_default=True, help="Name of the JSONL file of each task."
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Maximum number of rows per task, and of items per probe, balanced over its groups.",
)
@click.option("--max-tokens", type=click.IntRange(min=2), help="Leave out rows with more tokens.")
@click.option(
    "--no-generate", is_flag=True, help="Measure by teacher forcing only: loss, KL, exact match."
)
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Store the answers of N rows per task in the result, changed answers first.",
)
@click.option(
    "--probes",
    multiple=True,
    metavar="PATH",
    help="Run every adapter on the probes in this JSONL file, or in those of this folder. "
    "Repeatable.",
)
@same_base_option
@click.option("-o", "--output", metavar="FILE.json", help="Also write the result to this file.")
@force_option("Overwrite an output that is not a result of eval.")
@common_options
def eval_(
    paths: tuple[str, ...],
    base: str,
    originals: tuple[str, ...],
    same_base: bool,
    output: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score adapters and bundles on their tasks, against the originals and the base model.

    ADAPTERS are the originals. Each task of a BUNDLE is compared with the adapter of the same name:
    the metric of the task with a 95 % interval of the difference, loss, KL divergence, equal next
    tokens, and answers that change; for sequence classifiers accuracy, macro-F1, and equal labels.
    --probes reports changes for groups of people. Requires pip install 'hydraopt[eval]'.

    \b
    Example:
      hydraopt eval adapters/* phone.hydra.safetensors --base ./base --tasks ./tasks --rows 100
      hydraopt eval phone.hydra.safetensors --originals adapters/* --base ./base --probes ./probes
    """
    source = click.get_current_context().get_parameter_source
    given = [x for x in options if source(x) is not click.core.ParameterSource.DEFAULT]
    _check(options, given)
    named = _tasks_named(options["named"])
    if output:
        from hydraopt.files import check_apart, check_replaceable

        check_replaceable(output, force, lambda text: b'"schema": "hydraopt.eval/' in text)
        check_apart(output, [*originals, *paths])
    from hydraopt.evaluate import evaluate, read_compared

    request = _request(base, named, options)
    compared = read_compared([*originals, *paths], same_base, base)

    with progress_bar() as progress:
        result = evaluate(compared, request, progress)
    result = replace(result, notes=(*compared.notes, *result_notes(result)) or None)
    if output:
        _write(result, output)
    if as_json:
        emit_json(to_json(result))
    else:
        _show(result)
        show_people(result)
        say_notes(result.notes or ())


_OF_TASKS: Final = ("max_tokens", "answers", "named", "split", "no_generate")
"""Options that have no effect on probes."""


def _check(options: Mapping[str, Any], given: Collection[str]) -> None:
    """Raise UsageError for options that would do nothing.

    given: names of the options on the command line; their values may be the defaults.
    """
    if "answers" in given and options["no_generate"]:
        raise cannot_combine("--answers", ["--no-generate"], "no answers are written")
    if options["tasks"] is None and not options["probes"]:
        raise needs("eval", "--tasks or --probes")
    of_tasks = [name for name in _OF_TASKS if name in given]
    if options["tasks"] is None and of_tasks:
        raise needs(_spelt(of_tasks), "--tasks")


def _spelt(names: Sequence[str]) -> str:
    """Return options as they are typed."""
    return ", ".join("--task" if x == "named" else f"--{x.replace('_', '-')}" for x in names)


def _request(base: str, named: Mapping[str, str], options: Mapping[str, Any]) -> EvaluationRequest:
    """Return the options of the command as a request."""
    from hydraopt.evaluate import EvaluationRequest

    tasks = options["tasks"]
    return EvaluationRequest(
        base,
        None if tasks is None else Path(tasks),
        named,
        options["split"],
        options["rows"],
        options["max_tokens"],
        write=not options["no_generate"],
        answers=options["answers"],
        probes=options["probes"],
    )


def _write(result: Evaluation, output: str) -> None:
    from hydraopt.files import destination, write_atomically

    text = json.dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(destination(output), [text.encode()])


def _tasks_named(texts: Sequence[str]) -> dict[str, str]:
    """Return TASK/LANGUAGE by adapter.

    Raises UsageError for text of another form, and for two tasks of one adapter.
    """
    made: dict[str, str] = {}
    for text in texts:
        adapter, equals, task = text.partition("=")
        if not (adapter and equals and task):
            expected = "ADAPTER=TASK/LANGUAGE"
            raise UsageError(explain("cannot read --task", got=text, expected=expected))
        if adapter in made:
            raise UsageError(
                explain(
                    "--task names two tasks of one adapter",
                    adapter=adapter,
                    got=f"{made[adapter]} and {task}",
                    expected="one",
                    do="Leave one out",
                )
            )
        made[adapter] = task
    return made


def _show(result: Evaluation) -> None:
    rows = []
    for task in result.tasks:
        metric = task.metric or ""
        for name, scored in task.results.items():
            change = (scored.difference or {}).get(metric)
            rows.append(
                [
                    task.adapter,
                    name.removesuffix(".hydra.safetensors"),
                    metric,
                    _number(scored.scores.get(metric), "{:.2f}"),
                    ""
                    if change is None
                    else f"{change.difference:+.2f} [{change.low:+.2f}, {change.high:+.2f}]",
                    f"{scored.loss:.4f}",
                    _number(scored.recovery, "{:.2%}"),
                    _number(scored.kl, "{:.5f}"),
                    _number(scored.agreement, "{:.2f} %"),
                    _number(scored.changed_pct, "{:.1f} %"),
                ]
            )
    if not rows:
        return
    show_table(
        "scores in percent; differences to the original with 95 % intervals",
        [
            "adapter",
            "from",
            "metric",
            "score",
            "difference",
            "loss",
            "recovered",
            "KL",
            "same token or label",
            "answers changed",
        ],
        rows,
    )


def _number(value: float | None, template: str) -> str:
    return "-" if value is None else template.format(value)
