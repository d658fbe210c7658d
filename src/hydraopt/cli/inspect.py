"""``hydraopt inspect`` and ``doctor``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hydraopt.cli.options import common_options, same_base_option, skip_option
from hydraopt.cli.terminal import (
    HARM_COLUMNS,
    cannot_combine,
    emit_json,
    harm_cells,
    mean_and_worst,
    percent,
    progress_bar,
    say,
    say_notes,
    show_table,
    size_text,
    worst,
)
from hydraopt.errors import UsageError, explain
from hydraopt.files import to_json
from hydraopt.notes import counted

if TYPE_CHECKING:
    from hydraopt.inspect import (
        AdaptersReport,
        AdapterSummary,
        BundleReport,
        Difference,
        Listing,
        ModuleComparison,
        ModuleCost,
        TaskDetails,
        TypeComparison,
        TypeCost,
    )


def show_list(report: Listing) -> None:
    """Show a list of tasks."""
    errors = [row.error for row in report.tasks]
    shown, left = worst(report.tasks, lambda row: row.error)
    show_table(
        f"{counted(len(report.tasks), 'task')} in {report.path}: {report.size:,} bytes",
        ["task", "error", "own bytes", "carried bytes", "fp16 bytes", "added", "file"],
        [
            [
                row.name,
                "lossless" if row.lossless else f"{row.error:.4f}",
                f"{row.own_bytes:,}",
                f"{row.carried_bytes:,}",
                f"{row.fp16_bytes:,}",
                row.added.day if row.added else "-",
                row.added.digest if row.added else "-",
            ]
            for row in shown
        ],
    )
    if left is not None:
        say(left)
        say(f"errors  {mean_and_worst(errors)} (relative, Frobenius)")
        say(f"own     {size_text(sum(row.own_bytes for row in report.tasks))} of all tasks")
    say(f"core    {size_text(report.core_bytes)} shared by the tasks")
    say(f"base    {report.base_model or '(not named)'}")


def show_difference(report: Difference) -> None:
    """Show how two bundles differ."""
    rows: list[list[str]] = []
    rows += [[name, "added", "", "", ""] for name in report.added]
    rows += [[name, "removed", "", "", ""] for name in report.removed]
    rows += [[old, f"renamed to {new}", "", "", ""] for old, new in report.renamed.items()]
    for row in report.changed:
        errors = " -> ".join(f"{x:.4f}" for x in row.error)
        own = [a + b for a, b in zip(row.own_bytes, row.carried_bytes, strict=True)]
        sizes = " -> ".join(f"{x:,}" for x in own)
        rows.append([row.name, "changed", ", ".join(row.what), errors, sizes])
    if rows:
        columns = ["task", "is", "differs in", "error", "bytes"]
        show_table(" -> ".join(report.paths), columns, rows)
    before, after = report.size
    say(f"core    {'the same' if report.core == 'same' else 'different'}")
    say(f"same    {counted(len(report.same), 'task')}")
    say(f"size    {before:,} -> {after:,} bytes")


_TASKS = (
    "task", "format", "ranks", "modules", "carried tensors", "fp16 bytes", "|dW|", "same as",
    "start",
)  # fmt: skip
_LIKENESS = (
    "m x n",
    "cos A",
    "cos B",
    "cos dW",
    "rows",
    "columns",
    "r",
    "k 90 %",
    "k 99 %",
)
_LEGEND = """\
cos: mean cosine over pairs of tasks of A, B (as given) and dW = B A. rows, columns: overlap of the
row and column spaces of dW, 0 to 1 (in brackets: of random ones). k: parts of r that hold 90 and
99 % of |dW|^2.
"""
_COSTS = ("m x n", "bytes", "of them bases", "mean error", "worst error", "forms")


@click.command(short_help="Describe adapters or a bundle, or compare two bundles.")
@click.argument("paths", nargs=-1, required=True, metavar="ADAPTERS...|BUNDLE [OTHER]")
@click.option(
    "--list", "lists", is_flag=True, help="List the tasks only; reads the manifest or index."
)
@click.option(
    "--modules", "every", is_flag=True, help="Show every module instead of every module type."
)
@click.option("--plot", metavar="FILE", help="Draw a picture of ADAPTERS: .png, .svg or .pdf.")
@same_base_option
@skip_option
@common_options
def inspect(
    paths: tuple[str, ...],
    lists: bool,
    every: bool,
    plot: str | None,
    same_base: bool,
    skip_unreadable: bool,
    as_json: bool,
) -> None:
    """Show what adapters have in common, what a bundle contains, or how two bundles differ.

    ADAPTERS: similarity of the factors and products of different tasks, number of parts that hold
    the energy, and size against error with and without sharing. Writes no bundle.

    BUNDLE, a file or a folder: bytes, error and forms of every task and module, and the measured
    harm. --list reads only the manifest or index, so it is fast for bundles of many tasks.

    BUNDLE OTHER: tasks that were added, removed, renamed or changed in OTHER, and whether the core
    is the same. Only manifests and checksums are compared.

    \b
    Example:
      hydraopt inspect adapters/* --plot likeness.png
      hydraopt inspect phone.hydra.safetensors --modules
      hydraopt inspect phone.hydra.safetensors --list
      hydraopt inspect before.hydra.safetensors phone.hydra.safetensors
    """
    if plot is not None:
        from hydraopt.report import check_plot

        check_plot(plot)
    from hydraopt.bundle import is_bundle

    bundles = [path for path in paths if is_bundle(path)]
    of_adapters = {"--same-base": same_base, "--skip-unreadable": skip_unreadable}
    idle = [option for option, is_given in of_adapters.items() if is_given]
    if plot is not None and bundles:
        raise cannot_combine("--plot", ["BUNDLE"], "hydraopt report draws bundles")
    if idle and (lists or len(bundles) == len(paths)):
        raise cannot_combine("--list" if lists else "BUNDLE", idle)
    if lists or len(bundles) == len(paths) == 2:
        _contents(paths, lists, {"--modules": every, "--plot": plot is not None}, as_json)
        return
    if bundles and len(paths) > 1:
        what, expected = "cannot inspect these together", "adapters, one bundle, or two bundles"
        raise UsageError(explain(what, got=", ".join(paths[:8]), expected=expected))
    if bundles:
        from hydraopt.inspect import inspect_bundle

        with progress_bar() as progress:
            bundle = inspect_bundle(paths[0], progress)
        if as_json:
            emit_json(to_json(bundle))
        else:
            _show_bundle(bundle, every)
        return
    _adapters(paths, every, plot, same_base, skip_unreadable, as_json)


def _adapters(
    paths: Sequence[str],
    every: bool,
    plot: str | None,
    same_base: bool,
    skip_unreadable: bool,
    as_json: bool,
) -> None:
    """Compare adapters, and show or draw the report."""
    from hydraopt.inspect import inspect_adapters

    with progress_bar() as progress:
        report = inspect_adapters(
            paths, same_base=same_base, skip_unreadable=skip_unreadable, progress=progress
        )
    if plot is not None:
        from hydraopt.report import draw

        draw(report, plot)
    if as_json:
        emit_json(to_json(report))
    else:
        _show_adapters(report, every)


def _contents(paths: Sequence[str], lists: bool, others: dict[str, bool], as_json: bool) -> None:
    """Show the list of one bundle, or the difference of two. others: which options were given."""
    from hydraopt.inspect import difference, listing

    option = "--list" if lists else "two bundles"
    if idle := [name for name, given in others.items() if given]:
        raise cannot_combine(option, idle)
    if lists and len(paths) > 1:
        raise click.UsageError("--list expects one bundle")
    if as_json:
        emit_json(to_json(listing(paths[0]) if lists else difference(*paths)))
    elif lists:
        show_list(listing(paths[0]))
    else:
        show_difference(difference(*paths))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "-"


def _start(task: AdapterSummary) -> str:
    """Return the traced start of an adapter, and how many of its modules have it."""
    if task.start_seed is None:
        return "-"
    some = task.traced_modules < task.modules
    share = f", {task.traced_modules} of {task.modules} modules" if some else ""
    return f"seed {task.start_seed}{share}"


def _show_adapters(report: AdaptersReport, every: bool) -> None:
    adapters = counted(len(report.tasks), "adapter")
    show_table(
        f"{adapters} of {report.base_model or 'an unnamed base'}",
        _TASKS,
        [
            [
                x.name,
                x.format,
                _list(x.ranks),
                x.modules,
                x.carried_tensors,
                f"{x.fp16_bytes:,}",
                f"{x.norm:.3g}",
                ", ".join(x.same_as) or "-",
                _start(x),
            ]
            for x in report.tasks
        ],
    )
    rows: Sequence[ModuleComparison | TypeComparison] = report.modules if every else report.types
    show_table(
        "Similarity of the tasks, and number of parts that hold the energy",
        ["module" if every else "module type", *_LIKENESS],
        [_module_row(row) for row in rows],
    )
    for line in _LEGEND.split("\n"):
        say(line)
    show_table(
        "Size of a merge by its mean error",
        ["relative error", "size", "of fp16", "private form alone", "of fp16"],
        [
            [
                f"{x.error:.2f}",
                size_text(x.bytes) if x.bytes else "-",
                percent(x.fraction) if x.fraction else "-",
                size_text(x.private_bytes) if x.private_bytes else "-",
                percent(x.private_fraction) if x.private_fraction else "-",
            ]
            for x in report.guesses
        ],
    )
    say_notes(report.notes)


def _module_row(row: ModuleComparison | TypeComparison) -> list[object]:
    """Return the row of a module or module type, with means over tasks."""

    def mean(values: Sequence[int] | float) -> str:
        return f"{values if isinstance(values, float) else sum(values) / len(values):.1f}"

    def space(overlap: float | None, chance: float | None) -> str:
        return "-" if overlap is None or chance is None else f"{overlap:.2f} ({chance:.2f})"

    from hydraopt.inspect import TypeComparison

    return [
        f"{row.type} ({row.modules})" if isinstance(row, TypeComparison) else row.path,
        f"{row.m} x {row.n}",
        _number(row.a_cosine),
        _number(row.b_cosine),
        _number(row.product_cosine),
        space(row.input_overlap, row.input_chance),
        space(row.output_overlap, row.output_chance),
        mean(row.rank if isinstance(row, TypeComparison) else row.ranks),
        mean(row.rank90),
        mean(row.rank99),
    ]


def _show_bundle(report: BundleReport, every: bool) -> None:
    from hydraopt.bundle import states_estimates
    from hydraopt.inspect import ModuleCost, Originals, compared

    def forms(row: TaskDetails | ModuleCost | TypeCost) -> str:
        return ", ".join(f"{name} {count}" for name, count in row.forms.items()) or "-"

    error = "error, estimated" if states_estimates(report.recipe) else "error"
    originals = Originals(report.original_bytes, report.originals)
    own = "of fp16" if originals.stored == "fp16" else "of original"
    show_table(
        f"{report.path}: {report.size:,} bytes, {compared(report.size, originals)}",
        ["task", error, "own bytes", "carried bytes", own, "worst module, about", "forms"],
        [
            [
                x.name,
                f"{x.error:.4f}",
                f"{x.own_bytes:,}",
                f"{x.carried_bytes:,}",
                percent((x.own_bytes + x.carried_bytes) / max(x.original_bytes, 1)),
                x.worst_module or "-",
                forms(x),
            ]
            for x in report.tasks
        ],
    )
    seeds = Counter(task.start.seed for task in report.tasks if task.start)
    if seeds:
        say(f"starts: {', '.join(f'seed {x} of {n} tasks' for x, n in sorted(seeds.items()))}")
    _show_harm(report.tasks)
    rows: Sequence[ModuleCost | TypeCost] = report.modules if every else report.types
    show_table(
        "Modules" if every else "Module types",
        ["module" if every else "module type", *_COSTS],
        [
            [
                x.path if isinstance(x, ModuleCost) else f"{x.type} ({x.modules})",
                f"{x.m} x {x.n}",
                f"{x.bytes:,}",
                f"{sum(x.basis_bytes.values()):,}",
                f"{x.mean_error:.4f}",
                _worst(x.worst_error),
                forms(x),
            ]
            for x in rows
        ],
    )
    places = ", ".join(f"{name} {count:,}" for name, count in report.parts.items())
    say(f"bytes   {places}")
    say(f"base    {report.base_model or '(not named)'}")
    recipe = "; ".join(f"{k} {json.dumps(v, ensure_ascii=False)}" for k, v in report.recipe.items())
    say(f"recipe  {recipe or '-'}")


def _worst(error: float) -> str:
    """Format the error of a module, which a manifest states only up to 1."""
    return f"{error:.4f}" if error < 1 else "1 or more"


def _show_harm(tasks: Sequence[TaskDetails]) -> None:
    """Show a table of measured harm, if there is any."""
    if any(x.harm for x in tasks):
        show_table(
            "Answers compared with those of the originals",
            ["task", *HARM_COLUMNS],
            [[x.name, *harm_cells(x.harm)] for x in tasks],
        )


@click.command(short_help="Check the installation with a small merge.")
@click.option("--base", help="Folder of a base model to check as well; no weights are loaded.")
@common_options
@click.pass_context
def doctor(ctx: click.Context, base: str | None, as_json: bool) -> None:
    """Check the installation, the free space, and whether a small merge works.

    Exit code 1 if a required part does not work. Attach the output to bug reports.

    \b
    Example:
      hydraopt doctor
      hydraopt doctor --base ~/models/gemma-3-270m --json
    """
    from hydraopt.inspect import look

    symptoms = list(look(base))
    if as_json:
        emit_json({"schema": "hydraopt.doctor/1", "symptoms": to_json(symptoms)})
    else:
        columns = ["", "state", "result"]
        cells = [[x.what, x.state, x.finding] for x in symptoms]
        show_table("Installation", columns, cells, words=True)
        for symptom in symptoms:
            if symptom.do:
                say(f"{symptom.state}: {symptom.what}: {symptom.do}")
    if any(symptom.state == "trouble" for symptom in symptoms):
        ctx.exit(1)
