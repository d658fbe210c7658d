"""``hydraopt add``: add adapters to a bundle, or replace its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.common import cannot_combine, needs
from hydraopt.cli.mergeoptions import (
    Prompts,
    base_tensors,
    check_prompts,
    onlooker_of,
    read_texts,
    warn_of_cut,
)
from hydraopt.cli.options import common_options, same_base_option, skip_option, workers_option
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.results import show_changed

if TYPE_CHECKING:
    from hydraopt.progress import Progress

__all__ = ["add"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Replace the tasks of the same names. Name an adapter after its task with TASK=PATH.",
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
    help="Base model, to measure which modules matter, as for merge. Required if tensors are "
    "stored as differences from it.",
)
@click.option(
    "--prompts",
    "prompted",
    type=Prompts(),
    multiple=True,
    help="Prompts to measure harm on, as for merge; requires --base. Nothing is trained.",
)
@click.option(
    "--exact",
    multiple=True,
    metavar="PATTERN",
    help="Keep tensors whose names match PATTERN (with * and ?) bit for bit.",
)
@same_base_option
@skip_option
@workers_option
@common_options
def add(
    bundle: str, adapters: tuple[str, ...], replaces: bool, as_json: bool, **options: Any
) -> None:
    """Add ADAPTERS to BUNDLE, a file or a folder of core and task files.

    Each adapter is coded against the shared core of BUNDLE. The core and the other tasks stay as
    they are, byte for byte, and the order of additions does not matter. Give one limit at most;
    without a limit, a bit costs as much as in the merge. An adapter that is unlike the core takes
    more bytes; hydraopt refresh estimates how many a new core would save.

    \b
    Example:
      hydraopt add phone.hydra.safetensors adapters/numbers-pl
      hydraopt add phone.hydra.safetensors pl=run3/best --max-error 0.1
      hydraopt add phone.hydra.safetensors numbers-de=run4/best --replace
    """
    asked = _Asked(**options)
    from hydraopt.adapters import read_adapters
    from hydraopt.editing import verbs
    from hydraopt.merging.budget import Limit

    verb = verbs.replace if replaces else verbs.add
    limit = Limit(asked.size, asked.max_error, asked.harm, asked.lossless)
    with progress_bar() as progress:
        opened = read_adapters(
            adapters, same_base=asked.same_base, skip_unreadable=asked.skip_unreadable
        )
        if asked.base is not None:
            named = {"same_base": asked.same_base, "prompted": bool(asked.prompted)}
            verbs.check_before(verb, bundle, opened, limit, **named)
        onlooker = _onlooker(asked, bundle, opened, progress)
        done = verb(
            bundle,
            opened,
            limit=limit,
            look=onlooker.look if onlooker else None,
            exact=asked.exact,
            same_base=asked.same_base,
            base=base_tensors(asked.base, opened),
            workers=asked.workers,
            progress=progress,
        )
        if onlooker is not None and onlooker.tasks():
            warn_of_cut(onlooker.judge)
    show_changed(done, as_json, "replaced in" if replaces else "added to")


@dataclass(frozen=True)
class _Asked:
    """Options of the command. Raises click's errors for options that do not fit together."""

    size: str | None
    max_error: float | None
    harm: str | None
    lossless: bool
    base: str | None
    prompted: tuple[tuple[str, str], ...]
    exact: tuple[str, ...]
    same_base: bool
    skip_unreadable: bool
    workers: int | None

    def __post_init__(self) -> None:
        check_prompts(self.prompted)
        if self.harm is not None and not self.prompted:
            raise needs("--harm", "--base", "--prompts")
        if self.prompted and self.base is None:
            raise needs("--prompts", "--base")
        given = {
            "--prompts": bool(self.prompted),
            "--exact": bool(self.exact),
            "--base": self.base is not None,
        }
        if self.lossless and (idle := [name for name, x in given.items() if x]):
            raise cannot_combine("--lossless", idle, "every tensor is kept as it is")


def _onlooker(asked: _Asked, bundle: str, opened: Sequence[Any], progress: Progress | None) -> Any:
    """Return what to ask of the base model if one is given, else None."""
    if asked.base is None or asked.lossless:
        return None
    from hydraopt.bundle.recipes import answer_tokens_in
    from hydraopt.collection.kinds import collection_at
    from hydraopt.merging.align import coded_of
    from hydraopt.merging.options import check_prompted

    names = [adapter.name for adapter in opened]
    there = collection_at(bundle)
    others = there.names() if asked.prompted else ()
    texts = read_texts(asked.prompted, names, others)
    if asked.harm is not None:
        check_prompted(coded_of(opened, asked.exact), texts)
    most = answer_tokens_in(there.core().recipe)  # as the others were measured
    return onlooker_of(asked.base, opened, texts, progress, answer_tokens=most)
