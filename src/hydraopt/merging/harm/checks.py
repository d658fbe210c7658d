"""Checks of a merge by harm before anything is measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from hydraopt.errors import UsageError, explain
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import HarmLimit, MeanError, Size, WorstError
from hydraopt.values import listed

__all__ = ["check_choices", "check_prompted", "check_several", "coded_names"]


def check_choices(
    aim: Size | MeanError | WorstError | HarmLimit, fair: bool, importance: Mapping[str, float]
) -> None:
    """Raise UsageError for choices that do not apply to a limit on harm."""
    if isinstance(aim, HarmLimit) and (fair or importance):
        raise UsageError(
            explain(
                "a limit on harm cannot be combined with weights or fair",
                do="Leave fair out" if fair else "Leave the weights out",
            )
        )


def coded_names(pieces: MergeSet) -> Iterator[str]:
    """Yield the names of tasks with coded data: other tasks keep any limit."""
    return (task.name for task in pieces.tasks if task.content is not None)


def check_prompted(names: Iterable[str], known: Collection[str]) -> None:
    """Raise UsageError for tasks without prompts. known: tasks that have prompts."""
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            explain(
                "a limit on harm needs prompts for every task",
                got=f"none of {listed(missing)}",
                do="Add a file of prompts for each, give --size or --error instead, or merge those "
                "that can have none apart",
            )
        )


def check_several(names: Sequence[str]) -> None:
    """Raise UsageError for tasks, if any, that a limit on a share is told of by one answer."""
    if names:
        raise UsageError(
            explain(
                "a limit on harm needs several prompts for every task",
                got=f"one prompt of {listed(names)}, which tells nothing of others",
                do="Add different ones, 64 or more, or give --size or --error instead",
            )
        )
