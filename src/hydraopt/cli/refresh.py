"""``hydraopt refresh``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.common import (
    check_target,
    emit_json,
    mean_and_worst,
    needs,
    percent,
    say,
    say_notes,
    worst,
)
from hydraopt.cli.options import (
    common_options,
    force_option,
    same_base_option,
    workers_option,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.jsonvalues import to_json
from hydraopt.values import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydraopt.editing.refreshed import Expected, Grown, Refreshed

__all__ = ["refresh"]


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
    from hydraopt.editing.refresh import expected_saving
    from hydraopt.editing.refresh import refresh as refresh_at

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
    from hydraopt.collection.folder import folder_of
    from hydraopt.files.folders import check_empty, is_folder
    from hydraopt.files.url import place_of

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
