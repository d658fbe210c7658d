"""The options of ``hydraopt merge``: how they are written, held against each other, and read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hydraopt.cli.common import cannot_combine, needs, warn
from hydraopt.values import closest, listed

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter, Adapters
    from hydraopt.adapters.basefiles import BaseTensors
    from hydraopt.harm.judge import AnswerJudge
    from hydraopt.harm.look import BaseModelLook
    from hydraopt.progress import Progress

__all__ = [
    "DEFAULT_MEASURE",
    "Asked",
    "Importance",
    "Prompts",
    "base_tensors",
    "check_prompts",
    "given_texts",
    "onlooker_of",
    "read_texts",
    "said_of_cut",
    "warn_of_cut",
]

DEFAULT_MEASURE = "bias-aware"


class Importance(click.ParamType[tuple[str, float]]):
    """TASK=NUMBER; the task's name may hold "=" itself."""

    name = "TASK=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        task, equals, number = str(value).rpartition("=")
        try:
            return task if equals and task else self.fail(f"{value!r} has no '='"), float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is not a number, as in numbers-de=2", param, ctx)


_FEW_PROMPTS: Final = 24
"""Of a task: with fewer, what is measured tells little of other prompts (docs/log.md)."""


class Prompts(click.ParamType[tuple[str, str]]):
    """DIR, or TASK=FILE; the task's name may not hold "=", the file's may."""

    name = "DIR|TASK=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        task, equals, file = str(value).partition("=")
        if not equals or Path(value).is_dir():
            return "", str(value)
        if not (task and file):
            self.fail(f"{value!r} is not TASK=FILE, as in numbers-de=prompts.txt", param, ctx)
        return task, file


def check_prompts(prompted: Sequence[tuple[str, str]]) -> None:
    """Raise click's error for two folders, or two files of one task."""
    if len(dict(prompted)) != len(prompted):
        folders = [where for task, where in prompted if not task]
        said = "expected one folder" if len(folders) > 1 else "a task is given twice"
        raise click.BadParameter(said, param_hint="--prompts")


def read_texts(
    prompted: Sequence[tuple[str, str]], names: Sequence[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Prompts by task, as of :func:`given_texts`. Warns of tasks that have few, or none where
    others have some."""
    texts = given_texts(prompted, names, others)
    counts = {name: len(set(mine)) for name, mine in texts.items()}
    few = [f"{name} ({count})" for name, count in counts.items() if count < _FEW_PROMPTS]
    if few:
        warn(f"few prompts of {listed(few)}: give 64 or more, or harm is a guess")
    none = [name for name in names if name not in texts] if texts else []
    if none:
        warn(f"no prompts of {listed(none)}: nothing is measured there")
    return texts


def given_texts(
    prompted: Sequence[tuple[str, str]], names: Sequence[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Prompts by task; a file of one task goes before what the folder has of it. Warns of files in
    the folder that are of no task.

    names: the tasks that are asked about. others: tasks that there are besides. Raises UsageError
    for what cannot be read, and for prompts for a task that was not found.
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
            warn(f"prompts of no task here are not read: {listed(unread)}")
    return texts | {task: read_prompts(file) for task, file in files.items()}


def onlooker_of(
    base: str,
    adapters: Sequence[Adapter],
    texts: Mapping[str, Sequence[str]],
    progress: Progress | None,
    refits: bool = False,
    answer_tokens: int | None = None,
) -> BaseModelLook:
    """Who looks at the adapters with the base model; warns of those of which it tells nothing.

    answer_tokens: None for the default. Raises UsageError, as BaseModelLook does."""
    from hydraopt.bundle.harm import ANSWER_TOKENS
    from hydraopt.harm.look import BaseModelLook
    from hydraopt.merging.look import HarmSettings

    most = ANSWER_TOKENS if answer_tokens is None else answer_tokens
    settings = HarmSettings(answer_tokens=most)
    warn_of_base(base, adapters)
    onlooker = BaseModelLook(base, adapters, texts, progress, refits=refits, settings=settings)
    for name, reason in onlooker.unseen.items():
        warn(f"--base does not tell which modules of {name} matter: it has {reason}")
    return onlooker


def warn_of_base(base: str, adapters: Sequence[Adapter]) -> None:
    """Warns of adapters that name another base model than a hub's name; a folder's proves nothing.
    Shapes may fit all the same, and harm is then measured on answers that nobody gives."""
    from hydraopt.adapters.bases import base_key

    if Path(base).exists():
        return
    named = {x.name: x.base_model for x in adapters if x.base_model}
    other = [name for name, model in named.items() if base_key(model) != base_key(base)]
    if other:
        warn(f"--base is {base}, but {listed(other)} name another base model ({named[other[0]]})")


def base_tensors(base: str | None, adapters: Sequence[Adapter]) -> BaseTensors | None:
    """The base's own tensors, if there is something that could take their place."""
    if base is None or not any(adapter.extras for adapter in adapters):
        return None
    from hydraopt.adapters.basefiles import open_base
    from hydraopt.basemodel.loading import files_of

    return open_base(files_of(base) or base)


def warn_of_cut(judge: AnswerJudge) -> None:
    """Warns of tasks whose answers go on beyond what is judged."""
    if cut := judge.cut():
        for told in said_of_cut(cut, judge.cut_by_tokens(), judge.answer_tokens):
            warn(told)


def said_of_cut(cut: Mapping[str, int], by_tokens: Collection[str], tokens: int) -> Iterator[str]:
    """How it is told. cut: by task, how many answers go on beyond what is judged. by_tokens: those
    of which any goes on beyond so many ``tokens``; of others the model has no more positions."""
    from hydraopt.bundle.harm import MOST_ANSWER_TOKENS

    full, more = ([x for x in cut if (x in by_tokens) == which] for which in (False, True))
    if more:
        do = "; merge --answer-tokens judges more" if tokens < MOST_ANSWER_TOKENS else ""
        counts = listed([f"{name} ({cut[name]})" for name in more])
        yield f"harm is told of the first {tokens} tokens of answers that go on: {counts}{do}"
    if full:
        counts = listed([f"{name} ({cut[name]})" for name in full])
        yield f"harm is told of answers that go on where the base has no more positions: {counts}"


@dataclass(frozen=True)
class Asked:
    """The options of a merge, held against each other. Raises click's errors, and UsageError."""

    size: str | None
    error: float | None
    max_error: float | None
    lossless: bool
    harm: str | None
    weights: tuple[tuple[str, float], ...]
    fair: bool
    measure: str
    forms: tuple[str, ...]
    base: str | None
    prompted: tuple[tuple[str, str], ...]
    answer_tokens: int | None
    products: str
    refit: bool | None
    exact: tuple[str, ...]
    same_base: bool
    alpha: float | None
    skip_unreadable: bool
    workers: int | None
    engine: str
    address: str | None
    work: str | None
    memory: str | None

    def __post_init__(self) -> None:
        if len(self.importance) != len(self.weights):
            raise click.BadParameter("a task is given twice", param_hint="--weight")
        check_prompts(self.prompted)
        if self.harm is not None:
            self._check_harm(self.harm)
        self._check_prompted()
        if self.base is None and self.products != "float32":
            raise needs("--products", "--base")
        if self.base is not None and self.lossless:
            raise cannot_combine("--base", ["--lossless"], "every tensor is kept as it is")

    def _check_prompted(self) -> None:
        """Raise click's error for options of a measurement without what they need."""
        if self.prompts and self.base is None:
            raise needs("--prompts", "--base")
        if self.answer_tokens is not None and not self.prompted:
            raise needs("--answer-tokens", "--base", "--prompts")
        if self.refit and not self.prompted:
            raise needs("--refit", "--base", "--prompts")
        if self.refit and self.harm is not None:
            why = "training would change the harm that was measured"
            raise cannot_combine("--refit", ["--harm"], why)

    def _check_harm(self, harm: str) -> None:
        """Before a base model is loaded for it."""
        from hydraopt.merging.budget import Limit
        from hydraopt.merging.options import check_harm_limit

        if not self.prompted:
            raise needs("--harm", "--base", "--prompts")
        limit = Limit(self.size, self.error, harm, self.lossless, self.max_error).budget(0)
        check_harm_limit(limit, self.fair, self.importance)

    def read(self, paths: Sequence[str]) -> Adapters:
        """Read the adapters. Raises a HydraoptError."""
        from hydraopt.adapters import read_adapters

        return read_adapters(
            paths,
            same_base=self.same_base,
            alpha=self.alpha,
            skip_unreadable=self.skip_unreadable,
        )

    def check_limits(self, adapters: Sequence[Adapter]) -> None:
        """Read limit, measure, forms and weights before a base model is loaded. Raises
        UsageError."""
        from hydraopt.compress.measure import measure_named
        from hydraopt.merging.budget import Limit
        from hydraopt.merging.solving import check_forms
        from hydraopt.merging.weights import check_importance

        limit = Limit(self.size, self.error, self.harm, self.lossless, self.max_error)
        limit.budget(2 * sum(adapter.numbers for adapter in adapters))
        measure_named(self.measure)
        check_forms(self.forms)
        check_importance([adapter.name for adapter in adapters], self.importance)

    @property
    def refits(self) -> bool:
        """Whether coded parts are trained. What keeps a limit on harm stays as it was measured, and
        where errors are limited, nearly all that training gives would go back."""
        wanted = self.size is not None if self.refit is None else self.refit
        return wanted and bool(self.prompted)

    @property
    def importance(self) -> dict[str, float]:
        """Weights of errors, by task."""
        return dict(self.weights)

    @property
    def prompts(self) -> dict[str, str]:
        """Files of prompts by task; a folder of them by an empty name."""
        return dict(self.prompted)
