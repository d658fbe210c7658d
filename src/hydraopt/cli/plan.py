"""``hydraopt plan``."""

from __future__ import annotations

from typing import Any

import click

from hydraopt.cli.common import needs
from hydraopt.cli.mergerequest import MergeRequest
from hydraopt.cli.options import (
    common_options,
    fair_option,
    prompts_option,
    same_base_option,
    skip_option,
    weight_option,
    workers_option,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.prompting import warn_of_cut
from hydraopt.cli.results import show_plan

__all__ = ["plan"]


@click.command(short_help="Estimate the size and harm of a merge; write no bundle.")
@click.argument("adapters", nargs=-1, required=True)
@click.option("--size", help="Limit on the file: 5% (of the inputs' fp16 bytes), 3MB, or bytes.")
@click.option(
    "--harm",
    metavar="SHARE|NATS",
    help="Limit on the harm to each task: 1% of its answers may change, or 0.01nats of KL per "
    "answer.",
)
@click.option("--base", required=True, help="Base model, as for merge.")
@prompts_option("Prompts to measure harm on, as for merge.", required=True)
@weight_option
@fair_option
@click.option("--plot", metavar="FILE", help="Draw the plan: .png, .svg or .pdf.")
@same_base_option
@skip_option
@workers_option
@common_options
def plan(adapters: tuple[str, ...], plot: str | None, as_json: bool, **options: Any) -> None:
    """Show the size and harm of each task that a merge of ADAPTERS would give; write no bundle.

    Give one limit, --size or --harm. plan does the work of merge except a refit. The measurements
    are cached, so a merge with the same options does not repeat them.

    \b
    Example:
      hydraopt plan adapters/* --base BASE --prompts DIR --size 5% --plot plan.png
    """
    if (options["size"] is None) == (options["harm"] is None):
        raise needs("plan", "one of --size, --harm")
    request = MergeRequest(**options)
    if plot is not None:
        from hydraopt.report.figures import check_plot

        check_plot(plot)
    from hydraopt.merging.plan import plan as plan_merge

    with progress_bar() as progress:
        opened = request.read(adapters)
        judge = request.answer_judge(opened, progress)
        made = plan_merge(opened, request.options(opened, judge, progress))
        if judge:
            warn_of_cut(judge)
    show_plan(made, as_json)
    if plot is not None:
        from hydraopt.report.figures import draw

        draw(made, plot)
