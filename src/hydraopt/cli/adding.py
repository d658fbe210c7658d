"""Options of ``add`` and ``replace``, and the base model that they measure with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hydraopt.cli.common import (
    all_option,
    cannot_combine,
    json_option,
    needs,
    quiet_option,
    skip_option,
    workers_option,
)
from hydraopt.cli.mergeoptions import (
    Prompts,
    base_tensors,
    check_prompts,
    onlooker_of,
    read_texts,
    warn_of_cut,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.results import show_changed

if TYPE_CHECKING:
    from hydraopt.editing.verbs import Changed
    from hydraopt.progress import Progress

__all__ = ["Adding", "adding_options", "run_adding"]

F = TypeVar("F", bound=Callable[..., Any])


def adding_options(command: F) -> F:
    """The options of both, in the order of the help."""
    for option in reversed(
        [
            click.option(
                "--size", help="Limit of each adapter: 5% of its fp16 bytes, 30KB, bytes."
            ),
            click.option(
                "--error",
                "--max-error",
                "error",
                type=float,
                help="Limit of the relative error of each adapter: 0.1.",
            ),
            click.option(
                "--harm",
                metavar="SHARE|NATS",
                help="Limit of each adapter, measured on --prompts: 1% of its answers may change, "
                "or 0.01nats of KL an answer.",
            ),
            click.option("--lossless", is_flag=True, help="Every tensor comes back bit for bit."),
            click.option(
                "--base",
                help="The base model, as for merge: see which modules matter; also where tensors "
                "are kept as differences from it.",
            ),
            click.option(
                "--prompts",
                "prompted",
                type=Prompts(),
                multiple=True,
                help="Measure on the answers to these prompts what coding changes; needs --base. "
                "As for merge, but that nothing is trained.",
            ),
            click.option(
                "--exact",
                multiple=True,
                metavar="PATTERN",
                help="Keep tensors whose keys match PATTERN (with * and ?) bit by bit.",
            ),
            click.option(
                "--same-base", is_flag=True, help="The base is the same one, by another name."
            ),
            click.option(
                "--alpha", type=float, help="lora_alpha of files that do not state theirs."
            ),
            skip_option,
            workers_option,
            all_option,
            json_option,
            quiet_option,
        ]
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Adding:
    """The options, held against each other. Raises click's errors."""

    size: str | None
    error: float | None
    harm: str | None
    lossless: bool
    base: str | None
    prompted: tuple[tuple[str, str], ...]
    exact: tuple[str, ...]
    same_base: bool
    alpha: float | None
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


def run_adding(
    verb: Callable[..., Changed],
    bundle: str,
    adapters: tuple[str, ...],
    asked: Adding,
    every: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read the adapters, look at them with the base model if there is one, change, and say so.

    verb: add or replace, of hydraopt.editing.verbs.
    """
    from hydraopt.adapters import read_adapters
    from hydraopt.editing.verbs import check_before
    from hydraopt.merging.budget import Limit

    limit = Limit(asked.size, asked.error, asked.harm, asked.lossless)
    with progress_bar(quiet or as_json) as progress:
        opened = read_adapters(
            adapters,
            same_base=asked.same_base,
            alpha=asked.alpha,
            skip_unreadable=asked.skip_unreadable,
        )
        if asked.base is not None:
            named = {"same_base": asked.same_base, "prompted": bool(asked.prompted)}
            check_before(verb, bundle, opened, limit, **named)
        look = _look(asked, bundle, opened, progress)
        done = verb(
            bundle,
            opened,
            limit=limit,
            look=look,
            exact=asked.exact,
            same_base=asked.same_base,
            base=base_tensors(asked.base, opened),
            workers=asked.workers,
            progress=progress,
        )
        if look is not None and look.judge is not None:
            warn_of_cut(look.judge)
    what = "replaced in" if verb.__name__ == "replace" else "added to"
    show_changed(done, as_json, what, every)


def _look(asked: Adding, bundle: str, opened: Sequence[Any], progress: Progress | None) -> Any:
    """Return what to ask of the base model if one is given, else None."""
    if asked.base is None or asked.lossless:
        return None
    from hydraopt.bundle.recipes import answer_tokens_in
    from hydraopt.collection.kinds import collection_at
    from hydraopt.merging.align import coded_of
    from hydraopt.merging.look import Look
    from hydraopt.merging.options import check_prompted

    names = [adapter.name for adapter in opened]
    there = collection_at(bundle)
    others = there.names() if asked.prompted else ()
    texts = read_texts(asked.prompted, names, others)
    if asked.harm is not None:
        check_prompted(coded_of(opened, asked.exact), texts)
    most = answer_tokens_in(there.core().recipe)  # as the others were measured
    seen = onlooker_of(asked.base, opened, texts, progress, answer_tokens=most)
    return Look(seen.judge if texts else None, seen.sensitivities)
