"""``hydraopt add``: add adapters to a bundle, or replace its tasks."""

from __future__ import annotations

from typing import Any

import click

from hydraopt.cli.mergerequest import MergeRequest
from hydraopt.cli.options import (
    common_options,
    exact_option,
    prompts_option,
    same_base_option,
    skip_option,
    workers_option,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.prompting import base_tensors, warn_of_cut
from hydraopt.cli.results import show_changed

__all__ = ["add"]


@click.command(short_help="Add adapters to a bundle, or replace its tasks.")
@click.argument("bundle")
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Replace tasks that have these names. TASK=PATH gives an adapter the name of its task.",
)
@click.option("--size", help="Limit for each adapter: 5% of its fp16 bytes, 30KB, or bytes.")
@click.option("--max-error", type=float, help="Limit on the relative error of each adapter: 0.1.")
@click.option(
    "--harm",
    metavar="SHARE|NATS",
    help="Limit on the harm to each adapter, measured on --prompts: 1% of its answers may change, "
    "or 0.01nats of KL per answer.",
)
@click.option("--lossless", is_flag=True, help="Keep every tensor bit for bit.")
@click.option(
    "--base",
    help="Base model, to measure which modules matter, as for merge. Required if BUNDLE stores "
    "tensors as differences from it.",
)
@prompts_option("Prompts to measure harm on, as for merge; requires --base. Nothing is trained.")
@exact_option
@same_base_option
@skip_option
@workers_option
@common_options
def add(
    bundle: str, adapters: tuple[str, ...], replaces: bool, as_json: bool, **options: Any
) -> None:
    """Add ADAPTERS to BUNDLE, a file or a folder of core and task files.

    BUNDLE is changed in place. Each adapter is coded with its shared core. The core and the other
    tasks do not change, and the order of additions does not matter. Give at most one limit; without
    a limit, bytes are traded against error as in the merge. An adapter unlike those in BUNDLE takes
    more bytes; hydraopt refresh estimates how many a new core would save.

    \b
    Example:
      hydraopt add phone.hydra.safetensors adapters/numbers-pl
      hydraopt add phone.hydra.safetensors pl=run3/best --max-error 0.1
      hydraopt add phone.hydra.safetensors numbers-de=run4/best --replace
    """
    request = MergeRequest(can_refit=False, **options)
    from hydraopt.bundle.harm import answer_tokens_in
    from hydraopt.collection.storage import collection_at
    from hydraopt.editing import verbs

    verb = verbs.replace if replaces else verbs.add
    limit = request.limit
    with progress_bar() as progress:
        opened, judge = request.read(adapters), None
        if request.base is not None:
            named = {"same_base": request.same_base, "prompted": bool(request.prompted)}
            verbs.check_before(bundle, opened, limit, replaces=replaces, **named)
            there = collection_at(bundle)
            tokens = answer_tokens_in(there.core().recipe)  # as many as for the other tasks
            others = there.names() if request.prompted else ()
            judge = request.answer_judge(opened, progress, others, tokens)
        done = verb(
            bundle,
            opened,
            limit=limit,
            look=judge.look if judge else None,
            exact=request.exact,
            same_base=request.same_base,
            base=base_tensors(request.base, opened),
            workers=request.workers,
            progress=progress,
        )
        if judge and judge.tasks():
            warn_of_cut(judge)
    show_changed(done, as_json, "replaced in" if replaces else "added to")
