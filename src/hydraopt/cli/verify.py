"""``hydraopt verify``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from hydraopt.cli.options import (
    PromptFile,
    base_files,
    check_prompts,
    common_options,
    notes_on_cut,
    prompts_option,
    same_base_option,
    texts_of,
    warn_of_base,
)
from hydraopt.cli.terminal import (
    HARM_COLUMNS,
    emit_json,
    harm_cells,
    mean_and_worst,
    needs,
    percent,
    progress_bar,
    say,
    say_always,
    say_notes,
    show_table,
    worst,
)
from hydraopt.errors import UsageError, require
from hydraopt.files import to_json
from hydraopt.notes import Note, counted, listed

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter
    from hydraopt.bundle import HarmReport, TaskHarm, VerifyReport
    from hydraopt.progress import Progress


_MOST_PROBLEMS: Final = 20


@click.command(short_help="Check a bundle, and measure its errors again.")
@click.argument("bundle")
@click.argument("adapters", nargs=-1)
@click.option(
    "--base",
    help="Base model; required for --prompts, and if tensors are stored as differences from it.",
)
@prompts_option(
    "Prompts to measure harm on again, as for merge; requires --base and ADAPTERS. Tasks "
    "without prompts are skipped."
)
@same_base_option
@common_options
@click.pass_context
def verify(
    ctx: click.Context,
    bundle: str,
    adapters: tuple[str, ...],
    base: str | None,
    prompted: tuple[PromptFile, ...],
    same_base: bool,
    as_json: bool,
) -> None:
    """Check every byte of BUNDLE; with ADAPTERS, the originals, also measure every error again.

    Give the originals of all tasks, as for merge: they are matched by name, and a task without an
    original is a problem. With --prompts, the share of answers that are likely to change is
    measured too. It is a problem if this share exceeds the share in the bundle by more than three
    standard deviations. Exit code 1 if there are problems.

    \b
    Example:
      hydraopt verify phone.hydra.safetensors
      hydraopt verify phone.hydra.safetensors adapters/*
      hydraopt verify phone.hydra.safetensors adapters/* --base BASE --prompts prompts
    """
    check_prompts(prompted)
    _check_given(adapters, same_base, base, prompted)
    from hydraopt.adapters import open_base, read_adapters
    from hydraopt.bundle import verify_bundle

    _check_there(bundle)
    originals = None
    if adapters:
        originals = read_adapters(adapters, same_base=same_base)
    prompts = _asked(bundle, originals, prompted) if originals is not None else {}
    # open_base raises for a wrong --base, which is not a problem of the bundle.
    report = verify_bundle(
        bundle, originals, open_base(base_files(base) if base and prompted else base)
    )
    harm = None
    if prompted and base is not None and originals is not None and report.tasks:
        warn_of_base(base, originals)
        try:
            with progress_bar() as progress:
                harm = _measured(report, originals, base, prompts, progress)
        except UsageError:
            if not as_json:
                _show(report)
            raise
    notes = [*(originals.notes if originals is not None else ()), *_notes(report, harm)]
    if harm is not None:
        notes += _notes_on_limit(bundle, harm)
    if as_json:
        result = {} if harm is None else {"harm": [task.to_dict() for task in harm.tasks]}
        document = {"schema": "hydraopt.verify/1", **to_json(report), "ok": report.ok, **result}
        emit_json({**document, "notes": to_json(notes)})
    else:
        _show(report, harm.tasks if harm is not None else ())
        say_notes(notes)
    ctx.exit(0 if report.ok else 1)


def _check_given(
    adapters: Sequence[str],
    same_base: bool,
    base: str | None,
    prompted: Sequence[PromptFile],
) -> None:
    """Raise an error for options that need others."""
    if prompted and not (base and adapters):
        missing = [x for x, given in (("ADAPTERS", adapters), ("--base", base)) if not given]
        raise needs("--prompts", *missing)
    if same_base and not adapters:
        raise needs("--same-base", "ADAPTERS")


def _check_there(bundle: str) -> None:
    """Raise the error of a path or address where nothing is: that is no problem of a bundle."""
    from hydraopt.bundle import open_bundle
    from hydraopt.files import is_folder, is_there, place_of

    place = place_of(bundle)
    if not is_folder(place) and not is_there(place):
        open_bundle(place)


def _notes(report: VerifyReport, harm: HarmReport | None) -> Iterator[Note]:
    """Yield notes on missing measurements and on estimates."""
    measured = {task.name for task in harm.tasks} if harm is not None else set()
    compared = [task.name for task in report.tasks if task.measured]
    left = [name for name in compared if name not in measured]
    if harm is not None and left:
        text = f"no prompts for {listed(left)}: harm was not measured there"
        yield Note("harm_not_measured", text, ", ".join(left))
    if harm is not None and any(task.most is not None for task in harm.tasks):
        text = "likely at most: with so few answers, shares up to this agree with the stated share"
        yield Note("likely_at_most", text)
    if harm is not None and (unsaid := [x.name for x in harm.tasks if x.stated is None]):
        text = f"the bundle states no harm for {listed(unsaid)} to compare with"
        yield Note("harm_not_stated", text, ", ".join(unsaid))
    if harm is not None and harm.cut:
        yield from notes_on_cut(harm.cut, harm.answer_tokens)
    if harm is not None and harm.learned:
        text = (
            f"{listed(harm.learned)}: if these are the prompts of the merge, a refit may have "
            "learned from some of them; use new prompts to judge the harm"
        )
        yield Note("prompts_learned", text, ", ".join(harm.learned))
    if report.estimated and compared:
        yield Note("errors_estimated", "the errors in the manifest are estimates, as after shrink")


def _notes_on_limit(bundle: str, harm: HarmReport) -> Iterator[Note]:
    """Yield a note on the limit on harm that the bundle was merged with, if there is one.

    It is no problem of the bundle if other prompts than those of the merge exceed the limit.
    """
    from hydraopt.bundle import open_bundle
    from hydraopt.merging import harm_limit_in

    limit = harm_limit_in(open_bundle(bundle).recipe)
    if limit is not None:
        above = [x.name for x in harm.tasks if not limit.is_kept_by(x.measured)]
        found = f"above it: {listed(above)}" if above else "no task is above it"
        text = f"limit of the merge: {limit.words}; on these prompts, {found}"
        yield Note("harm_limit", text, ", ".join(above))


def _asked(
    bundle: str, originals: Sequence[Adapter], prompted: Sequence[PromptFile]
) -> dict[str, list[str]]:
    """Return prompts by task; none for a bundle that cannot be opened, which is reported later."""
    from hydraopt.bundle import open_bundle
    from hydraopt.errors import BundleFormatError

    if not prompted:
        return {}
    try:
        there = set(open_bundle(bundle))
    except BundleFormatError:
        return {}
    return texts_of(prompted, [x.name for x in originals], there)


def _measured(
    report: VerifyReport,
    originals: Sequence[Adapter],
    base: str,
    prompts: Mapping[str, Sequence[str]],
    progress: Progress | None,
) -> HarmReport:
    """Measure the harm of the tasks that could be read, and add its problems to the report."""
    require("torch", "transformers")
    from hydraopt.model import verify_harm

    read = {task.name for task in report.tasks}
    prompts = {name: texts for name, texts in prompts.items() if name in read}
    harm = verify_harm(report.path, originals, base, prompts, progress)
    report.problems += harm.problems
    return harm


def _show(report: VerifyReport, harm: Sequence[TaskHarm] = ()) -> None:
    left = None
    if report.tasks:
        shown, left = worst(report.tasks, lambda task: task.error)
        columns = {
            "error": [f"{task.error:.4f}" for task in shown],
            "source": ["measured" if task.measured else "manifest" for task in shown],
            "worst module": [task.worst[0] if task.worst else "-" for task in shown],
            "error of worst module": [
                f"{task.worst[1]:.4f}" if task.worst else "-" for task in shown
            ],
            "worst tensor": [task.worst_tensor[0] if task.worst_tensor else "-" for task in shown],
            "error of worst tensor": [
                f"{task.worst_tensor[1]:.4f}" if task.worst_tensor else "-" for task in shown
            ],
            "tensors equal bit for bit": [
                str(task.exact) if task.measured else "-" for task in shown
            ],
        }
        filled = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
        rows = zip([task.name for task in shown], *filled.values(), strict=True)
        show_table(f"{report.path}: {report.bytes:,} bytes", ["task", *filled], list(rows))
    if harm:
        judged, more = worst(harm, lambda task: task.measured.likely)
        left = left or more
        stated, measured = HARM_COLUMNS, HARM_COLUMNS[:3]
        show_table(
            "Answers compared with those of the originals: in the bundle, and measured now",
            ["task", *stated, *(f"{name}, now" for name in measured), "likely at most"],
            [
                [
                    task.name,
                    *harm_cells(task.stated),
                    *harm_cells(task.measured)[:3],
                    "-" if task.most is None else percent(task.most),
                ]
                for task in judged
            ],
        )
    if left is not None:
        say(left)
        say(f"errors  {mean_and_worst([task.error for task in report.tasks])}")
    for problem in report.problems[:_MOST_PROBLEMS]:
        say_always(f"problem: {problem}")
    if (rest := len(report.problems) - _MOST_PROBLEMS) > 0:
        say_always(f"{counted(rest, 'further problem')}; --json has every one")
    say(counted(len(report.problems), "problem") if report.problems else "no problems found")
