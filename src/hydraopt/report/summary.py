"""Summary sentences at the top of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hydraopt.bundle.peft.card import base_words
from hydraopt.bundle.reader import Bundle
from hydraopt.inspect.originals import Originals, change_of
from hydraopt.report.model import TaskView
from hydraopt.values import counted

__all__ = ["summary_of"]


def bytes_text(count: float) -> str:
    """Format bytes for people: "912 bytes", "46.8 kB", "3.10 MB" (powers of ten)."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if count < 10 ** (power + 1) else 1}f} {unit}"
    return f"{count:.0f} bytes"


_WHOLE: Final = {
    "fp16": "that the adapters have in fp16",
    "read": "that were read",
    "mixed": "of the originals (lossless tasks as read, others in fp16)",
}


def summary_of(
    bundle: Bundle, tasks: Sequence[TaskView], originals: Originals, image: bool
) -> tuple[str, ...]:
    """Return size, harm and scores, one sentence each.

    image: True if the adapters are for an image model, which writes no answers.
    """
    count = counted(len(tasks), "task")
    size = f"{count} of {base_words(bundle.base_model, bundle.core.modules)} take "
    size += bytes_text(bundle.size)
    if originals.size:
        size += (
            f": {100 * bundle.size / originals.size:.2f} % of the {bytes_text(originals.size)} "
            f"{_WHOLE[originals.stored]}, {change_of(bundle.size, originals.size)}"
        )
    sentences = [f"{size}."]
    if not image or any(x.harm is not None for x in tasks):
        sentences.append(_harm(tasks))
    differences = {
        x.name: x.judged.difference for x in tasks if x.judged and x.judged.difference is not None
    }
    if differences:
        mean = sum(differences.values()) / len(differences)
        least = min(differences, key=lambda name: differences[name])
        sentences.append(
            f"Against the originals, scores change by {mean:+.2f} points in the mean of "
            f"{len(differences)} tasks, and by {differences[least]:+.2f} points in the worst task, "
            f"{least}."
        )
    if all(x.lossless for x in tasks):
        return (*sentences, "Every task is stored losslessly.")
    errors = [x.error for x in tasks]
    worst = max(tasks, key=lambda x: x.error)
    sentences.append(
        f"The relative error of the weights is {sum(errors) / len(errors):.3f} in the mean, and "
        f"{worst.error:.3f} in the worst task, {worst.name}. It is no measure of harm: noise "
        "of the same size does less harm than a lost part of the change."
    )
    return tuple(sentences)


def _harm(tasks: Sequence[TaskView]) -> str:
    measured = [x for x in tasks if x.harm is not None]
    if not measured:
        return "Harm: not measured. hydraopt eval and merge --prompts measure it."
    mean = sum(x.harm or 0.0 for x in measured) / len(measured)
    worst = max(measured, key=lambda x: x.harm or 0.0)
    among = (
        f"{len(measured):,} of {len(tasks):,} tasks"
        if len(measured) < len(tasks)
        else f"all {len(tasks):,} tasks"
    )
    if not worst.harm:
        return f"None of the originals' answers changes in what was measured, of {among}."
    return (
        f"{100 * mean:.1f} % of the originals' answers change, in the mean of {among}; "
        f"most in {worst.name}: {worst.measured}."
    )
