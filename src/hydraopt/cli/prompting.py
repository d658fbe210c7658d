"""Prompts and the base model, for the commands that measure with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hydraopt.cli.common import warn
from hydraopt.extras import require
from hydraopt.notes import Note
from hydraopt.values import closest, listed

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter
    from hydraopt.adapters.basefiles import BaseTensors
    from hydraopt.harm.judge import AnswerJudge
    from hydraopt.progress import Progress

__all__ = [
    "PromptFile",
    "answer_judge",
    "base_files",
    "base_tensors",
    "check_prompts",
    "notes_on_cut",
    "notes_on_prompts",
    "read_texts",
    "tell_synthetic",
    "texts_of",
    "warn_of_base",
    "warn_of_cut",
]

PromptFile = tuple[str, str]
"""Value of --prompts: the name of a task and its file, or an empty name and a folder."""
_FEW_PROMPTS: Final = 24
"""Number of prompts per task below which the measured harm says little about other prompts
(docs/log.md)."""


def check_prompts(prompted: Sequence[PromptFile]) -> None:
    """Raise click's error for two folders, or two files of one task."""
    if len(dict(prompted)) != len(prompted):
        folders = [where for task, where in prompted if not task]
        message = "expected one folder" if len(folders) > 1 else "a task is given twice"
        raise click.BadParameter(message, param_hint="--prompts")


def read_texts(
    prompted: Sequence[PromptFile], names: Sequence[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return prompts by task, as :func:`texts_of`, and warn about tasks with few or no prompts."""
    texts = texts_of(prompted, names, others)
    counts = {name: len(set(mine)) for name, mine in texts.items()}
    if texts:
        for note in notes_on_prompts(dict.fromkeys(names, 0) | counts):
            warn(note)
    return texts


def notes_on_prompts(counts: Mapping[str, int]) -> Iterator[Note]:
    """Yield notes on tasks with few or no prompts. counts: number of different prompts by task."""
    few = {name: count for name, count in counts.items() if 0 < count < _FEW_PROMPTS}
    if few:
        shown = listed([f"{name} ({count})" for name, count in few.items()])
        text = f"few prompts for {shown}: give 64 or more for a reliable figure"
        yield Note("few_prompts", text, ", ".join(few))
    none = [name for name, count in counts.items() if not count]
    if none:
        text = f"no prompts for {listed(none)}: their harm is not measured"
        yield Note("no_prompts", text, ", ".join(none))


def texts_of(
    prompted: Sequence[PromptFile], names: Sequence[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return prompts by task. The file given for a task takes precedence over the folder.

    Files of the folder that belong to no task cause a warning.
    names: tasks to measure. others: further tasks that exist.
    Raises UsageError for files that cannot be read, and for prompts for an unknown task.
    """
    from hydraopt.errors import UsageError, explain
    from hydraopt.harm.prompts import prompt_files, read_prompt_folder, read_prompts

    files = dict(prompted)
    folder = files.pop("", None)
    if unknown := sorted(set(files) - set(names)):
        what, expected = "prompts for a task that was not found", closest(unknown, sorted(names))
        raise UsageError(explain(what, got=listed(unknown), expected=expected))
    texts = {}
    if folder is not None:
        rest = [name for name in names if name not in files]
        texts = read_prompt_folder(folder, rest, {*others, *files}) if rest else {}
        if unread := sorted(set(prompt_files(folder)) - {*names, *others}):
            text = f"prompt files for other tasks are skipped: {listed(unread)}"
            warn(Note("prompts_not_read", text, ", ".join(unread)))
    return texts | {task: read_prompts(file) for task, file in files.items()}


def answer_judge(
    base: str,
    adapters: Sequence[Adapter],
    texts: Mapping[str, Sequence[str]],
    progress: Progress | None,
    refits: bool = False,
    answer_tokens: int | None = None,
) -> AnswerJudge:
    """Return the judge of the adapters' answers; warn about adapters that it cannot measure.

    texts: prompts by task. refits: whether coded parts will be trained. answer_tokens: maximum
    number of tokens per answer to compare; None for the default.
    Raises UsageError, as AnswerJudge does.
    """
    require("torch", "transformers")
    from hydraopt.harm.judge import AnswerJudge
    from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

    warn_of_base(base, adapters)
    settings = DEFAULT_HARM if answer_tokens is None else HarmSettings(answer_tokens=answer_tokens)
    judge = AnswerJudge(base, adapters, texts, progress, refits=refits, settings=settings)
    for name, reason in judge.unseen.items():
        text = f"--base cannot measure which modules of {name} matter: it has {reason}"
        warn(Note("weights_not_measured", text, name))
    return judge


def warn_of_base(base: str, adapters: Sequence[Adapter]) -> None:
    """Warn about adapters that name another base model than ``base``, if that is a name of a hub.

    Shapes may fit all the same, and harm is then measured on answers that no user gets. The name of
    a folder proves nothing.
    """
    from hydraopt.adapters.bases import base_key

    if Path(base).exists():
        return
    named = {x.name: x.base_model for x in adapters if x.base_model}
    other = [name for name, model in named.items() if base_key(model) != base_key(base)]
    if other:
        text = f"--base is {base}, but {listed(other)} name another base model ({named[other[0]]})"
        warn(Note("other_base", text, ", ".join(other)))


def base_tensors(base: str | None, adapters: Sequence[Adapter]) -> BaseTensors | None:
    """Return the tensors of the base model if an adapter has tensors that could replace them."""
    if base is None or not any(adapter.extras for adapter in adapters):
        return None
    from hydraopt.adapters.basefiles import open_base

    return open_base(base_files(base) or base)


def base_files(base: str) -> Path | None:
    """Return the folder of a base model; a name of a hub is downloaded if needed."""
    from hydraopt.basemodel.loading import files_of
    from hydraopt.basemodel.model import load_model

    if files_of(base) is None:
        load_model(base)
    return files_of(base)


def tell_synthetic(judge: AnswerJudge) -> None:
    """Warn about tasks for which the base model wrote prompts to train with."""
    written = {task: len(texts) for task, texts in judge.synthetic.items() if texts}
    if written:
        counts = listed([f"{task} ({count})" for task, count in written.items()])
        text = f"few prompts, so the base model wrote more to train with: {counts}"
        warn(Note("prompts_written", text, ", ".join(written)))


def warn_of_cut(judge: AnswerJudge) -> None:
    """Warn about tasks with answers that are longer than the compared part."""
    for note in notes_on_cut(judge.cut(), judge.answer_tokens):
        warn(note)


def notes_on_cut(cut: Mapping[str, tuple[int, bool]], tokens: int) -> Iterator[Note]:
    """Yield notes on answers that are longer than the compared part.

    cut: as of :meth:`hydraopt.harm.judge.AnswerJudge.cut`. tokens: maximum number of tokens per
    answer; the answers of tasks that it did not cut end where the base model has no more positions.
    """
    full, longer = ([x for x in cut if cut[x][1] == which] for which in (False, True))
    if longer:
        counts = listed([f"{name} ({cut[name][0]})" for name in longer])
        text = f"harm covers only the first {tokens} tokens of longer answers: {counts}"
        yield Note("answers_cut", text, ", ".join(longer))
    if full:
        counts = listed([f"{name} ({cut[name][0]})" for name in full])
        text = f"harm covers answers up to the last position of the base model: {counts}"
        yield Note("answers_end", text, ", ".join(full))
