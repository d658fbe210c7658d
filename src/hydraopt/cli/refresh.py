"""``hydraopt refresh``."""

from __future__ import annotations

from typing import Any

import click

from hydraopt.cli.common import (
    all_option,
    cannot_combine,
    check_target,
    emit_json,
    json_option,
    mean_and_worst,
    needs,
    percent,
    quiet_option,
    say,
    workers_option,
    worst,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.values import counted

__all__ = ["refresh"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1)
@click.option("-o", "--output", metavar="OUT", help="Write a file or a folder, as BUNDLE is.")
@click.option("--apply", "in_place", is_flag=True, help="Write it in the place of BUNDLE.")
@click.option("--size", help="Limit of the whole: 5% (of the adapters' fp16 bytes), 3MB, bytes.")
@click.option("--error", type=float, help="Limit of the mean relative error that is added.")
@click.option("--base", help="The base model's folder, if tensors are kept as differences from it.")
@click.option("--same-base", is_flag=True, help="The base is the same one, by another name.")
@click.option("--alpha", type=float, help="lora_alpha of files that do not state theirs.")
@click.option(
    "--force", is_flag=True, help="Replace OUT even if it is not a bundle, or another one."
)
@workers_option
@all_option
@json_option
@quiet_option
def refresh(
    bundle: str,
    adapters: tuple[str, ...],
    output: str | None,
    in_place: bool,
    force: bool,
    all_tasks: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Say what a new core for all tasks of BUNDLE would save; with -o or --apply make it.

    Without either nothing is written. ADAPTERS are originals, by the names of their tasks. Other
    tasks are coded again as BUNDLE holds them, so that errors add up, and those in the new bundle
    are estimates. Without --size or --error a bit may cost what it cost before, and a task that was
    coded more finely keeps its error. Tasks whose errors grow by more than a tenth are listed.

    \b
    Example:
      hydraopt refresh phone.hydra.safetensors
      hydraopt refresh phone.hydra.safetensors adapters/* --apply
    """
    limited = options["size"] is not None or options["error"] is not None
    if output is not None and in_place:
        raise cannot_combine("-o", ["--apply"])
    if limited and output is None and not in_place:
        raise needs("--size" if options["size"] is not None else "--error", "-o or --apply")
    if output is not None:
        _check(bundle, output, force)
    from hydraopt.editing.refresh import expected_saving
    from hydraopt.editing.refresh import refresh as refresh_at

    with progress_bar(quiet or as_json) as progress:
        if output is None and not in_place:
            known = {name: options[name] for name in ("same_base", "alpha", "base", "workers")}
            expected = expected_saving(bundle, adapters=adapters, progress=progress, **known)
        else:
            done = refresh_at(
                bundle, output, adapters=adapters, progress=progress, force=force, **options
            )
    if output is None and not in_place:
        _show_expected(expected, as_json, all_tasks)
    else:
        _show_done(done, as_json, all_tasks)


def _check(bundle: str, output: str, force: bool) -> None:
    from hydraopt.collection.folder import folder_of
    from hydraopt.files.folders import check_empty, is_folder
    from hydraopt.files.url import place_of

    if folder_of(place_of(bundle)) is None:
        check_target(output, force)
    elif not force and is_folder(place_of(output)):
        check_empty(place_of(output), "Empty it, or pass --force")


def _show_expected(expected: Any, as_json: bool, every: bool) -> None:
    if as_json:
        emit_json({"schema": "hydraopt.refresh.expected/1", **expected.to_dict()})
        return
    share = f"{percent(abs(expected.saved))} {'less' if expected.saved >= 0 else 'more'}"
    say(f"tasks     {expected.tasks}, {expected.added} of them added after the merge")
    say(f"size      {expected.size:,} bytes now, {expected.coded_bytes:,} of them coded")
    say(
        f"expected  {expected.expected_size:,} bytes over a new core, {share}; "
        f"{expected.expected_bytes:,} coded"
    )
    if expected.decoded:
        taken = counted(expected.decoded, "task")
        say(f"decoded   {taken} as the bundle holds them; with originals errors do not add up")
    _show_grown(expected.grown, every)
    if expected.saved > 0:
        say("nothing was written; give -o OUT or --apply to make it")
    else:
        say("nothing was written; a new core does not save anything")


def _show_done(done: Any, as_json: bool, every: bool) -> None:
    if as_json:
        emit_json({"schema": "hydraopt.refresh/1", **done.to_dict()})
        return
    for note in done.notes:
        say(f"note: {note}")
    errors = list(done.errors.values())
    say(f"tasks   {len(errors)}, {len(done.from_originals)} of them from their originals")
    say(f"errors  {mean_and_worst(errors)} (relative, Frobenius)")
    _show_grown(done.grown, every)
    say(f"size    {done.size_before:,} -> {done.size:,} bytes in {done.path}; {done.seconds:.1f} s")


def _show_grown(tasks: Any, every: bool) -> None:
    if tasks:
        say(f"errors that grow by more than a tenth: {counted(len(tasks), 'task')}")
    shown, left = worst(tasks, lambda task: task.after - task.before, every)
    for task in shown:
        say(f"  {task.name}  {task.before:.4f} -> {task.after:.4f}")
    if left is not None:
        say(left)
