"""``hydraopt add``, ``remove`` and ``refresh``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.merging import show_changed
from hydraopt.cli.options import (
    MergeRequest,
    base_tensors,
    common_options,
    exact_option,
    force_option,
    prompts_option,
    same_base_option,
    skip_option,
    warn_of_cut,
    workers_option,
)
from hydraopt.cli.terminal import (
    check_target,
    emit_json,
    mean_and_worst,
    needs,
    percent,
    progress_bar,
    say,
    say_notes,
    worst,
)
from hydraopt.files import to_json
from hydraopt.notes import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydraopt.merging import Expected, Grown, Refreshed


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
    from hydraopt.bundle import answer_tokens_in, collection_at
    from hydraopt.merging import add as add_tasks, check_before, replace as replace_tasks

    verb = replace_tasks if replaces else add_tasks
    limit = request.limit
    with progress_bar() as progress:
        opened, judge = request.read(adapters), None
        if request.base is not None:
            named = {"same_base": request.same_base, "prompted": bool(request.prompted)}
            check_before(bundle, opened, limit, replaces=replaces, **named)
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


@click.command(short_help="Remove tasks from a bundle.")
@click.argument("bundle")
@click.argument("tasks", nargs=-1, required=True)
@common_options
def remove(bundle: str, tasks: tuple[str, ...], as_json: bool) -> None:
    """Remove TASKS from BUNDLE, a file or a folder of core and task files.

    BUNDLE is changed in place. All bytes that belong only to TASKS are deleted, and no other byte
    changes. The core stays, although it was computed from the removed tasks too; hydraopt refresh
    computes a new one.

    \b
    Example:
      hydraopt remove phone.hydra.safetensors numbers-de
    """
    from hydraopt.merging import remove as remove_from

    show_changed(remove_from(bundle, tasks), as_json)


@click.command(short_help="Make a new core for a bundle, or estimate its saving.")
@click.argument("bundle")
@click.argument("adapters", nargs=-1)
@click.option(
    "-o", "--output", metavar="OUT", help="File or folder to write, of the same kind as BUNDLE."
)
@click.option("--size", help="Limit on all files: 5% (of the adapters' fp16 bytes), 3MB, or bytes.")
@click.option("--error", type=float, help="Limit on the relative error added, mean over tasks.")
@click.option("--base", help="Base model; required if tensors are stored as differences from it.")
@same_base_option
@force_option("Without -o: overwrite BUNDLE. With -o: overwrite OUT, whatever it is.")
@workers_option
@common_options
def refresh(
    bundle: str,
    adapters: tuple[str, ...],
    output: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate the saving of a new core for the tasks of BUNDLE; with -o or --force, write it.

    Without -o and --force, nothing is written. ADAPTERS are originals, named after their tasks. The
    other tasks are coded again from BUNDLE: their errors add up and are then estimates. Without
    --size or --error, bytes are traded against error as before, and a task that was coded more
    finely keeps its error. Tasks whose errors grow by more than a tenth are listed.

    \b
    Example:
      hydraopt refresh phone.hydra.safetensors
      hydraopt refresh phone.hydra.safetensors adapters/* --force
    """
    writes = output is not None or force
    if not writes and (limits := [x for x in ("size", "error") if options[x] is not None]):
        raise needs(f"--{limits[0]}", "-o or --force")
    if options["same_base"] and not adapters:
        raise needs("--same-base", "ADAPTERS")
    if output is not None:
        _check(bundle, output, force)
    from hydraopt.merging import expected_saving, refresh as refresh_at

    with progress_bar() as progress:
        if writes:
            done = refresh_at(
                bundle, output, adapters=adapters, progress=progress, force=force, **options
            )
        else:
            known = {name: options[name] for name in ("same_base", "base", "workers")}
            expected = expected_saving(bundle, adapters=adapters, progress=progress, **known)
    if writes:
        _show_done(done, as_json)
    else:
        _show_expected(expected, as_json)


def _check(bundle: str, output: str, force: bool) -> None:
    from hydraopt.bundle import folder_of
    from hydraopt.files import check_empty, is_folder, place_of

    if folder_of(place_of(bundle)) is None:
        check_target(output, force)
    elif not force and is_folder(place_of(output)):
        check_empty(place_of(output), "Empty it, or pass --force")


def _show_expected(expected: Expected, as_json: bool) -> None:
    if as_json:
        document = {"schema": "hydraopt.refresh.expected/1", **to_json(expected)}
        emit_json({**document, "saved": expected.saved})
        return
    share = f"{percent(abs(expected.saved))} {'less' if expected.saved >= 0 else 'more'}"
    say(f"tasks     {expected.tasks}, {expected.added} of them added after the merge")
    say(f"size      {expected.size:,} bytes now, {expected.coded_bytes:,} of them coded")
    say(
        f"expected  {expected.expected_size:,} bytes with a new core, {share}; "
        f"{expected.expected_bytes:,} coded"
    )
    if expected.decoded:
        taken = counted(expected.decoded, "task")
        say(f"decoded   {taken} from the bundle; with originals, errors do not add up")
    _show_grown(expected.grown)
    if expected.saved > 0:
        say("nothing was written; -o OUT writes it, and --force overwrites the bundle")
    else:
        say("nothing was written; a new core saves nothing")


def _show_done(done: Refreshed, as_json: bool) -> None:
    if as_json:
        emit_json({"schema": "hydraopt.refresh/1", **to_json(done)})
        return
    say_notes(done.notes)
    errors = list(done.errors.values())
    say(f"tasks   {len(errors)}, {len(done.from_originals)} of them from their originals")
    say(f"errors  {mean_and_worst(errors)} (relative, Frobenius)")
    _show_grown(done.grown)
    say(f"size    {done.size_before:,} -> {done.size:,} bytes in {done.path}; {done.seconds:.1f} s")


def _show_grown(tasks: Sequence[Grown]) -> None:
    if tasks:
        say(f"errors that grow by more than a tenth: {counted(len(tasks), 'task')}")
    shown, left = worst(tasks, lambda task: task.after - task.before)
    for task in shown:
        say(f"  {task.name}  {task.before:.4f} -> {task.after:.4f}")
    if left is not None:
        say(left)
