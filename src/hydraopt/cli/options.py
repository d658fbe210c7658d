"""Options that several commands share, prompts and the base model, checked together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from hydraopt.cli.terminal import QUIET, cannot_combine, needs, warn
from hydraopt.errors import require
from hydraopt.notes import Note, closest, listed

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter, Adapters, BaseTensors
    from hydraopt.merging import Limit, MergeOptions
    from hydraopt.model import AnswerJudge
    from hydraopt.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])
PromptFile = tuple[str, str]
"""Value of --prompts: the name of a task and its file, or an empty name and a folder."""


def common_options(command: Command) -> Command:
    """Add --json and --quiet, which every command has."""
    return _json_option(_quiet_option(command))


def _set_quiet(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    ctx.meta[QUIET] = value


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table."
)
_quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_set_quiet,
    help="Print only errors.",
)
same_base_option = click.option(
    "--same-base",
    is_flag=True,
    help="Treat all adapters as trained on one base model, even if they name different ones.",
)
skip_option = click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Skip adapters that cannot be read or contain NaN or infinity, and list them.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Maximum number of processes. Default: one per core, or one if the work is small. The "
    "result does not depend on it.",
)


class _Weight(click.ParamType[tuple[str, float]]):
    """TASK=NUMBER. The name of the task may contain "="."""

    name = "TASK=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        task, equals, number = str(value).rpartition("=")
        try:
            return task if equals and task else self.fail(f"{value!r} has no '='"), float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is not a number, as in numbers-de=2", param, ctx)


class _Prompts(click.ParamType[PromptFile]):
    """DIR, or TASK=FILE. The name of the file may contain "=", that of the task may not."""

    name = "DIR|TASK=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PromptFile:
        task, equals, file = str(value).partition("=")
        if not equals or Path(value).is_dir():
            return "", str(value)
        if not (task and file):
            self.fail(f"{value!r} is not TASK=FILE, as in numbers-de=prompts.txt", param, ctx)
        return task, file


weight_option = click.option(
    "--weight",
    "weights",
    type=_Weight(),
    multiple=True,
    help="Weight of a task's error. Default: 1. Repeatable.",
)
fair_option = click.option("--fair", is_flag=True, help="Give all tasks the same error.")
exact_option = click.option(
    "--exact",
    multiple=True,
    metavar="PATTERN",
    help="Keep tensors whose names match PATTERN (with * and ?) bit for bit. By default, heads and "
    "embeddings are coded with a loss. Repeatable.",
)


def prompts_option(text: str, required: bool = False) -> Callable[[Command], Command]:
    """Return the option --prompts. text: its help."""
    return click.option(
        "--prompts", "prompted", type=_Prompts(), multiple=True, required=required, help=text
    )


def force_option(text: str) -> Callable[[Command], Command]:
    """Return the option --force, which permits to overwrite an output. text: its help."""
    return click.option("--force", is_flag=True, help=text)


originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="Original adapters of the bundle; several may follow one --originals.",
)


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
    from hydraopt.model import prompt_files, read_prompt_folder, read_prompts

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
    from hydraopt.merging import DEFAULT_HARM, HarmSettings
    from hydraopt.model import AnswerJudge

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
    from hydraopt.adapters import base_key

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
    from hydraopt.adapters import open_base

    return open_base(base_files(base) or base)


def base_files(base: str) -> Path | None:
    """Return the folder of a base model; a name of a hub is downloaded if needed."""
    from hydraopt.model import files_of, load_model

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

    cut: as of :meth:`hydraopt.model.judge.AnswerJudge.cut`. tokens: maximum number of tokens per
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


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """Options of the command.

    can_refit: whether the command trains coded parts.

    Raises click's errors and UsageError for options that do not fit.
    """

    size: str | None = None
    error: float | None = None
    max_error: float | None = None
    lossless: bool = False
    harm: str | None = None
    weights: tuple[tuple[str, float], ...] = ()
    fair: bool = False
    base: str | None = None
    prompted: tuple[PromptFile, ...] = ()
    refit: bool | None = None
    can_refit: bool = True
    exact: tuple[str, ...] = ()
    same_base: bool = False
    skip_unreadable: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if len(self.importance) != len(self.weights):
            raise click.BadParameter("a task is given twice", param_hint="--weight")
        check_prompts(self.prompted)
        if self.harm is not None:
            self._check_harm()
        if self.prompted and self.base is None:
            raise needs("--prompts", "--base")
        if self.refit is not None and not self.prompted:
            raise needs("--refit" if self.refit else "--no-refit", "--base", "--prompts")
        if self.refit and self.harm is not None:
            raise cannot_combine("--refit", ["--harm"], "training would change the measured harm")
        given = {"--base": self.base is not None, "--exact": bool(self.exact)}
        if self.lossless and (idle := [name for name, x in given.items() if x]):
            raise cannot_combine("--lossless", idle, "every tensor is kept bit for bit")

    def _check_harm(self) -> None:
        from hydraopt.merging import check_harm_limit

        if not self.prompted:
            raise needs("--harm", "--base", "--prompts")
        check_harm_limit(self.limit.budget(0), self.fair, self.importance)

    @property
    def limit(self) -> Limit:
        """Limit of the merge."""
        from hydraopt.merging import Limit

        return Limit(self.size, self.error, self.harm, self.lossless, self.max_error)

    @property
    def refits(self) -> bool:
        """True if coded parts are trained.

        By default only for a size: training would change a measured harm, and under a limit on the
        error nearly all of its gain would be lost again.
        """
        wanted = self.size is not None if self.refit is None else self.refit
        return self.can_refit and wanted and bool(self.prompted)

    @property
    def importance(self) -> dict[str, float]:
        """Weights of errors, by task."""
        return dict(self.weights)

    def read(self, paths: Sequence[str]) -> Adapters:
        """Read the adapters. Raises a HydraoptError."""
        from hydraopt.adapters import read_adapters

        return read_adapters(paths, same_base=self.same_base, skip_unreadable=self.skip_unreadable)

    def answer_judge(
        self,
        adapters: Sequence[Adapter],
        progress: Progress | None,
        others: Collection[str] = (),
        answer_tokens: int | None = None,
    ) -> AnswerJudge | None:
        """Read the prompts, and return the judge of answers, if a base model was given.

        others: further tasks that may have prompts in the folder.
        answer_tokens: maximum number of tokens per answer to compare; None for the default.
        Raises UsageError.
        """
        if self.base is None:
            return None
        texts = read_texts(self.prompted, [adapter.name for adapter in adapters], others)
        return answer_judge(self.base, adapters, texts, progress, self.refits, answer_tokens)

    def options(
        self, adapters: Sequence[Adapter], judge: AnswerJudge | None, progress: Progress | None
    ) -> MergeOptions:
        """Return the options for the library. judge: as :meth:`answer_judge` returns it."""
        from hydraopt.merging import Look, MergeOptions

        return MergeOptions(
            limit=self.limit,
            importance=self.importance,
            fair=self.fair,
            look=judge.look if judge else Look(),
            exact=self.exact,
            same_base=self.same_base,
            base=base_tensors(self.base, adapters),
            workers=self.workers,
            progress=progress,
        )
