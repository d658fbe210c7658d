"""Notes for the user on a bundle that a merge produced."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from hydraopt.bundle.peft.below import rounded_copy
from hydraopt.bundle.spec import Manifest
from hydraopt.merging.budget import Budget, HarmLimit
from hydraopt.merging.look import DEFAULT_HARM
from hydraopt.notes import Note
from hydraopt.values import listed

__all__ = ["notes_of"]

_NEARLY_ALL: Final = 0.9
"""Share of the fp16 bytes above which a note recommends lossless."""
_LITTLE: Final = 0.5
"""Relative error of a trained tensor from which on a note names it."""
_NAMED: Final = 5
"""Tasks that a note names."""


def notes_of(
    manifest: Manifest, budget: Budget | HarmLimit | None, coded: int = 0, fp16_bytes: int = 0
) -> Iterator[Note]:
    """Yield the notes.

    budget: the limit of the bundle; None for a lossless one.
    coded: bytes of the bundle; 0 if nothing is coded with a loss, or for a task alone.
    fp16_bytes: of the inputs.
    """
    yield from _left_out(manifest)
    yield from _copies_of_the_base(manifest)
    yield from _little_kept(manifest)
    yield from _few_answers(manifest, budget)
    if coded > _NEARLY_ALL * fp16_bytes:
        more = "; with more prompts the same limit may take fewer bytes"
        text = f"{coded:,} bytes are hardly less than fp16; --lossless often takes less"
        yield Note("large_size", text + (more if isinstance(budget, HarmLimit) else ""))


def _left_out(manifest: Manifest) -> Iterator[Note]:
    """Name tensors of which little or nothing is left, with their errors."""
    lost: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for task in manifest.tasks:
        for index, error in zip(task.tensors, task.tensor_errors, strict=True):
            entry = manifest.tensors[index]
            if error >= (_LITTLE if entry.needed else 1) and not rounded_copy(entry):
                text = f"{task.name}: {entry.key} (error {error:.2g})"
                lost[entry.needed].append((entry.key, text))
    do = "--exact keeps them bit by bit"
    if lost[True]:
        keys, texts = zip(*lost[True], strict=True)
        text = f"little is kept of trained tensors: {listed(texts, _NAMED)}; {do}"
        yield Note("tensors_hardly_kept", text, _every(keys))
    if lost[False]:
        keys, texts = zip(*lost[False], strict=True)
        text = (
            "nothing is kept of trained tensors that change less than their bytes are worth at "
            f"this size: {listed(texts, _NAMED)}; {do}"
        )
        yield Note("tensors_not_kept", text, _every(keys))


def _copies_of_the_base(manifest: Manifest) -> Iterator[Note]:
    """Name coded tensors that exports replace by the base's own."""
    copies = {i: x.key for i, x in enumerate(manifest.tensors) if rounded_copy(x)}
    if tasks := [task.name for task in manifest.tasks if copies.keys() & set(task.tensors)]:
        keys = _every(sorted(copies.values()))
        text = (
            f"{listed(tasks, _NAMED)}: {keys} is taken for a "
            "copy of the base's weight, which PEFT saves and does not train; it is coded with a "
            "loss, so exports use the base's own. If it differs from the base, give export --base, "
            "or keep it bit by bit with --exact"
        )
        yield Note("base_copies", text, keys)


def _little_kept(manifest: Manifest) -> Iterator[Note]:
    """Yield a note on tasks whose error is at least as large as everything that they change."""
    if beyond := [task.name for task in manifest.tasks if task.error >= 1]:
        count = len(manifest.tasks)
        if count == 1:
            text = f"the error of {beyond[0]} is 1 or more: score the task before you ship it"
            yield Note("large_error", text, beyond[0])
            return
        text = (
            f"the error of {listed(beyond, _NAMED)} (of {count} tasks) is 1 or more: "
            "score these tasks before you ship them"
        )
        yield Note("large_error", text, _every(beyond))


def _few_answers(manifest: Manifest, budget: Budget | HarmLimit | None) -> Iterator[Note]:
    """Yield a note on tasks with too few answers to check a limit on their share."""
    if not isinstance(budget, HarmLimit) or not budget.shares:
        return
    counts = {task.name: task.harm.answers for task in manifest.tasks if task.harm}
    if few := [name for name, count in counts.items() if count * budget.limit < 1]:
        wanted = math.ceil(1 / budget.limit)
        do = f"give at least {wanted} prompts for each task"
        if wanted > DEFAULT_HARM.prompts:
            do = f"give a larger limit, because at most {DEFAULT_HARM.prompts} prompts are measured"
        text = (
            f"{budget.text} is less than one answer of {listed(few, _NAMED)}: too few "
            f"prompts to predict the harm on other inputs; {do}"
        )
        yield Note("few_answers", text, _every(few))


def _every(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
