"""``hydraopt eval``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import click

from hydraopt.cli.common import (
    cannot_combine,
    emit_json,
    json_option,
    needs,
    quiet_option,
    say,
    show_table,
)
from hydraopt.cli.looking import check_page, originals_option
from hydraopt.cli.people import result_notes, show_people
from hydraopt.cli.progress import progress_bar
from hydraopt.errors import UsageError, explain
from hydraopt.jsonvalues import to_json

if TYPE_CHECKING:
    from hydraopt.evaluate.results import Evaluation

__all__ = ["eval_"]


@click.command("eval")
@click.argument("paths", nargs=-1, required=True, metavar="ADAPTERS|BUNDLE...")
@click.option("--base", required=True, help="The base model: a folder that transformers loads.")
@click.option(
    "--tasks",
    help="Folder of task folders: TASK/META.json, TASK/LANGUAGE/test.jsonl. Needed for all but "
    "--probes.",
)
@originals_option
@click.option(
    "--task",
    "named",
    multiple=True,
    metavar="ADAPTER=TASK/LANGUAGE",
    help="The task of an adapter whose name or score.json does not tell.",
)
@click.option("--split", default="test", show_default=True, help="Which JSONL file of a task.")
@click.option("--rows", type=click.IntRange(min=1), help="At most so many rows of a task.")
@click.option("--max-tokens", type=click.IntRange(min=2), help="Leave longer rows out.")
@click.option(
    "--no-generate", is_flag=True, help="Only what teacher forcing tells: loss, KL, exact match."
)
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep what was written for N rows of a task, those that change first, in the result.",
)
@click.option(
    "--probes",
    multiple=True,
    metavar="PATH",
    help="Ask every adapter the probes of this file or folder: Winogender, WinoBias, BBQ, SeeGULL, "
    "KoBBQ, CrowS-Pairs. Several may be given.",
)
@click.option(
    "--swaps", is_flag=True, help="Swap names, pronouns, nationalities, religions in test rows."
)
@click.option(
    "--probe-items",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N items of each probe, and N rows of each kind of swap, alike over groups.",
)
@click.option("--no-scores", is_flag=True, help="Only --probes and --swaps.")
@click.option(
    "--products",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="bfloat16: processors with AMX may round what they multiply, which is faster.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap."
)
@click.option("--same-base", is_flag=True, help="As for merge.")
@click.option("--alpha", type=float, help="As for merge.")
@click.option("-o", "--output", metavar="FILE.json", help="Write the result there as well.")
@click.option("--force", is_flag=True, help="Replace an output that is no result of eval.")
@json_option
@quiet_option
def eval_(
    paths: tuple[str, ...],
    base: str,
    originals: tuple[str, ...],
    same_base: bool,
    alpha: float | None,
    output: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Score adapters and bundles on their tasks, against the originals and the base.

    ADAPTERS are the originals; each task of a BUNDLE is compared with the adapter of its name: the
    task's own metric with a 95 % interval of the difference (paired bootstrap), loss, KL
    divergence, how often both think of the same next token, and how many of the original's own
    answers change. Adapters that classify sequences are scored with their heads: accuracy,
    macro-F1, labels that stay the same. --probes and --swaps tell what changed for which people.
    Needs pip install 'hydraopt[eval]'.

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
        from hydraopt.files.apart import check_apart

        check_page(output, force, lambda text: b'"schema": "hydraopt.eval/' in text)
        check_apart(output, [*originals, *paths])
    compare = _library()
    request = _request(compare, base, named, options)
    compared = compare.read_compared([*originals, *paths], same_base, base, alpha)

    def noted(result: Evaluation) -> Evaluation:
        return replace(result, notes=(*compared.notes, *result_notes(result)) or None)

    def save(result: Evaluation) -> None:
        if output:
            _write(noted(result), output)

    with progress_bar(quiet or as_json) as progress:
        result = noted(compare.evaluate(compared, request, progress, save=save))
    if as_json:
        emit_json(to_json(result))
    else:
        _show(result)
        show_people(result)
        for note in result.notes or ():
            say(f"note: {note}")


_OF_TASKS: Final = ("rows", "max_tokens", "answers", "named", "split", "no_generate")
"""Options that say which rows of tasks are scored, and how."""
_OF_SCORES: Final = ("rows", "max_tokens", "no_generate")
"""Those of them that swaps do not heed."""


def _check(options: Mapping[str, Any], given: Collection[str]) -> None:
    """Raise UsageError for options that would do nothing. given: names of those that stand there,
    whose values may be the defaults."""
    excluded = [name for name in ("no_generate", "no_scores") if options[name]]
    if "answers" in given and excluded:
        raise cannot_combine("--answers", [_spelt(excluded)], "no answers are written")
    asked = options["probes"] or options["swaps"]
    if options["tasks"] is None and (options["swaps"] or not asked):
        raise needs("--swaps" if asked else "scoring", "--tasks")
    of_tasks = [name for name in _OF_TASKS if name in given]
    if options["tasks"] is None and of_tasks:
        raise needs(_spelt(of_tasks), "--tasks")
    if ("probe_items" in given or options["no_scores"]) and not asked:
        option = "--no-scores" if options["no_scores"] else "--probe-items"
        raise needs(option, "--probes or --swaps")
    of_scores = [name for name in _OF_SCORES if name in given]
    if options["no_scores"] and of_scores:
        why = "no rows are scored; --probe-items limits the rows of --swaps"
        raise cannot_combine("--no-scores", [_spelt(of_scores)], why)


def _spelt(names: Sequence[str]) -> str:
    """Options as they are typed."""
    return ", ".join("--task" if x == "named" else f"--{x.replace('_', '-')}" for x in names)


def _request(
    compare: ModuleType, base: str, named: Mapping[str, str], options: Mapping[str, Any]
) -> Any:
    """A hydraopt.evaluate.compare.Request of the command's options."""
    tasks = options["tasks"]
    return compare.Request(
        base,
        None if tasks is None else Path(tasks),
        named,
        options["split"],
        options["rows"],
        options["max_tokens"],
        write=not options["no_generate"],
        products=options["products"],
        seed=options["seed"],
        answers=options["answers"],
        probes=options["probes"],
        swaps=options["swaps"],
        people=options["probe_items"],
        score=not options["no_scores"],
    )


def _write(result: Evaluation, output: str) -> None:
    from hydraopt.files.outputs import destination
    from hydraopt.files.writing import write_atomically

    text = json.dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(destination(output), [text.encode()])


def _library() -> ModuleType:
    """hydraopt.evaluate.compare; raises UsageError where its packages are missing."""
    try:
        from hydraopt.evaluate import compare
    except ModuleNotFoundError as error:
        raise UsageError(
            explain(
                "eval needs more packages",
                got=f"no module {error.name}",
                do="pip install 'hydraopt[eval]'",
            )
        ) from error
    return compare


def _tasks_named(texts: Sequence[str]) -> dict[str, str]:
    """TASK/LANGUAGE by adapter. Raises UsageError for anything else, and for two of one adapter."""
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
