"""Request of ``merge``, ``plan`` or ``add``: their options, checked together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from hydraopt.cli.common import cannot_combine, needs
from hydraopt.cli.prompting import (
    PromptFile,
    answer_judge,
    base_tensors,
    check_prompts,
    read_texts,
)

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter, Adapters
    from hydraopt.harm.judge import AnswerJudge
    from hydraopt.merging.budget import Limit
    from hydraopt.merging.options import MergeOptions
    from hydraopt.progress import Progress

__all__ = ["MergeRequest"]


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
        from hydraopt.merging.options import check_harm_limit

        if not self.prompted:
            raise needs("--harm", "--base", "--prompts")
        check_harm_limit(self.limit.budget(0), self.fair, self.importance)

    @property
    def limit(self) -> Limit:
        """Limit of the merge."""
        from hydraopt.merging.budget import Limit

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
        from hydraopt.merging.look import Look
        from hydraopt.merging.options import MergeOptions

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
