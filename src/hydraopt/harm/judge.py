"""The judge: measures what coded factors do to the answers of each task's original adapter."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.loading import base_hash
from hydraopt.basemodel.memory import (
    JsonCache,
    are_answers,
    cache_folder,
    key_of,
    versions,
)
from hydraopt.basemodel.model import TaskFactors
from hydraopt.basemodel.writing import NotFiniteError, answered, ends_of, not_finite
from hydraopt.bundle.harm import Harm
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.harm.drift import (
    Reference,
    drift_of,
    held_out,
    reference_of,
)
from hydraopt.harm.judging import BaseJudge
from hydraopt.harm.lesson import learns_in
from hydraopt.harm.recall import depends_on, kept_records, recalled_records
from hydraopt.harm.refit import NOT_TRAINED, Schedule, parted, refit
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings, MeasuredHarm
from hydraopt.progress import Progress, silent
from hydraopt.sources import source_hash

__all__ = ["AnswerJudge"]

_MEASURES: Final = ("adapters", "basemodel", "harm", "linalg")
"""Packages whose code decides what is measured."""
_TRAINS: Final = (*_MEASURES, "coding", "compress", "merging")
"""Packages whose code decides what a refit learns."""
BLOCK: Final = 64
"""Prompts that are answered at once: who is stopped loses no more, and whoever asks the same first
prompts and others after them is told what is known of these."""
ROOM: Final = 1 << 29
"""Maximum number of bytes of references in memory."""


class AnswerJudge(BaseJudge):
    """Measures harm on the original adapters' own greedy answers to prompts.

    Answers, harms and what refits learned are kept on disk (hydraopt.basemodel.memory), so asking
    again costs nothing.
    """

    def __init__(
        self,
        base: str | Path,
        model: Any,
        tokenizer: Any,
        adapters: Mapping[str, Adapter],
        prompts: Mapping[str, Sequence[Encoded]],
        memory: JsonCache | None = None,
        lessons: Mapping[str, Sequence[Encoded]] | None = None,
        progress: Progress | None = None,
        settings: HarmSettings = DEFAULT_HARM,
    ) -> None:
        """Initialise a judge.

        base: folder or name of the model.
        prompts: encoded prompts without answers, by task.
        memory: cache; by default this machine's.
        lessons: further prompts for a refit to learn from and to be judged by; their harm is not
            reported.
        progress: called for new answers.
        """
        self._model, self._tokenizer = model, tokenizer
        self._adapters, self._prompts, self._lessons = adapters, prompts, lessons or {}
        self._settings, self.answer_tokens = settings, settings.answer_tokens
        known = base_hash(base)
        self._memory = memory or JsonCache(cache_folder() if known else None)
        where = f"{model.device.type} {torch.get_float32_matmul_precision()} {model.dtype}"
        self._ends = ends_of(model, tokenizer)
        self._of_base = (
            f"{known} {where} {versions()} {source_hash(*_MEASURES)} {self.answer_tokens} "
            f"{sorted(self._ends)}"
        )
        self._progress = progress or silent
        self._references: dict[str, Reference] = {}
        self._contents: dict[str, str] = {}

    def tasks(self) -> frozenset[str]:
        """Return the tasks that have prompts."""
        return frozenset(self._prompts)

    def answers(self, task: str) -> list[Encoded]:
        """Return the prompts of a task with the original's greedy answers.

        Raises NumericalError, here and wherever answers are needed, for an adapter with which the
        model's logits are not finite, and UsageError for prompts that the model does not read.
        """
        return self._answered(task, self._prompts[task])

    def cut(self, tasks: Iterable[str] | None = None) -> dict[str, int]:
        """Return the number of unfinished answers, by task, for tasks that have any.

        An answer is unfinished at ``answer_tokens``, or where the model has no more positions. Harm
        is measured on the tokens before that.

        tasks: tasks to report. Default all.
        """
        counts = {}
        for name in self._prompts if tasks is None else tasks:
            if on := sum(not self._ends & {*x.target[-1:]} for x in self.answers(name)):
                counts[name] = on
        return counts

    def cut_by_tokens(self, tasks: Iterable[str] | None = None) -> frozenset[str]:
        """Return the tasks with an answer that was cut at ``answer_tokens``.

        Unfinished answers of other tasks fill the positions of the model.

        tasks: tasks to report. Default all.
        """
        names = self._prompts if tasks is None else tasks
        most, ends = self.answer_tokens, self._ends
        return frozenset(
            name
            for name in names
            if any(len(x.target) >= most and x.target[-1] not in ends for x in self.answers(name))
        )

    def lessons(self, task: str) -> list[Encoded]:
        """Return the further prompts of a task with the original's answers, those that have any."""
        said = self._answered(task, self._lessons.get(task, ()), "more answers")
        return [answer for answer in said if answer.target]

    def _answered(
        self, task: str, asked: Sequence[Encoded], stage: str = "answers"
    ) -> list[Encoded]:
        """Return the answers to prompts of a task.

        stage: name of the stage in progress reports. Answers that are asked for hours later have a
            name of their own, because the time left is estimated from one stage.
        """
        said: list[Encoded] = []
        for start in range(0, len(asked), BLOCK):
            block = asked[start : start + BLOCK]
            done = functools.partial(
                self._progress, f"{stage} of {task}", start + len(block), len(asked)
            )
            said += self._block(task, block, done)
        return said

    def _block(
        self, task: str, asked: Sequence[Encoded], done: Callable[[], None]
    ) -> list[Encoded]:
        """Return the answers to a few prompts, which have one cache entry.

        done: called if the answers were not in the cache.
        """
        key = self._key(task, asked)
        said = self._memory.get(key)
        if not are_answers(said, len(asked)):
            given = self._model, self._tokenizer, asked, self._originals(task)
            try:
                spoken = answered(*given, self.answer_tokens)
            except NotFiniteError:
                raise not_finite("the adapter's own answers cannot be told", task) from None
            said = [list(item.target) for item in spoken]
            self._memory.put(key, said)
            done()
        return [Encoded(x.prompt, tuple(y)) for x, y in zip(asked, said, strict=True)]

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float = 0.0,
        apart: bool = False,
    ) -> MeasuredHarm:
        """Return the harm of a task's decoded factors, whatever their error.

        Arguments as of :meth:`hydraopt.merging.look.HarmJudge.measure`. Raises AlignmentError for
        modules that the base does not have as linear ones.
        """
        factors = {path: (x.B, x.A) for path, x in sorted(coded().items())}
        return self.measured(task, factors, apart)

    def measured(self, task: str, factors: TaskFactors, apart: bool = False) -> MeasuredHarm:
        """Measure the harm of given factors on a task's prompts.

        factors: B (m, k) with the scale inside, A (k, n), by path; modules with k = 0 count as left
            out.

        Raises NumericalError where the model's logits are not finite, with the original or with
        these factors; then nothing is cached.
        """
        factors = {path: (b, a) for path, (b, a) in factors.items() if len(a)}
        asked = self._prompts[task]
        every = list(range(len(asked)))
        held = self._unlearned(task) if apart else every
        some = held or every
        parts: list[bytes | str] = [self._key(task, asked)]
        parts += [f"apart {some}"] if some != every else []
        for path, (b, a) in factors.items():
            parts += [path, b.tobytes(), a.tobytes()]
        key = key_of(parts)
        known = _from_cache(self._memory.get(key), len(some), bool(held))
        if known is not None:
            return known
        drift = drift_of(self._model, self._reference(task), factors)
        if not drift.is_finite:
            raise not_finite("what coding does to the answers cannot be measured", task)
        measured = drift.only(some).summary(bool(held))
        self._memory.put(key, _to_cache(measured))
        return measured

    def refit(
        self,
        task: str,
        modules: Callable[[], Mapping[str, CodedModule]],
        told: Callable[[int, int], None] | None = None,
    ) -> Mapping[str, PartsRecord]:
        """Return other records of a task's modules, trained to keep its answers.

        Nothing is returned if training does not help, for a task without prompts, and for too few
        answers to different prompts. See :func:`hydraopt.harm.refit.refit`, also for ``told``.
        """
        if not self._learned(task):
            return {}
        answers, more = self.answers(task), self.lessons(task)
        coded = modules()
        asked = [self._key(task, x) for x in (self._prompts[task], self._lessons.get(task, ()))]
        learns = (
            f"refit {source_hash(*_TRAINS)} {learns_in(self._model)} {Schedule()} {self._settings}"
        )
        key = key_of([learns, *asked, *depends_on(coded)])
        known = recalled_records(self._memory.get(key), coded)
        if known is not None:
            return known
        given = self._model, answers, self._originals(task), coded
        try:
            records = refit(*given, more=more, told=told, settings=self._settings).records
        except NotFiniteError:
            raise not_finite(NOT_TRAINED, task) from None
        self._memory.put(key, kept_records(records, coded))
        return records

    def _learned(self, task: str) -> list[Encoded]:
        """Return the answers that a refit learns from; none if too few are left to judge."""
        answers = self.answers(task) if task in self._prompts else []
        least = self._settings.least_held_out
        # Lessons take minutes to answer: not where even all of them would leave too few judges.
        if len(held_out(answers, len(self._lessons.get(task, ())))[1]) < least:
            return []
        seen, judging, _ = parted(answers, self.lessons(task), self._settings)
        return seen if len(set(judging)) >= least else []

    def _unlearned(self, task: str) -> list[int]:
        """Return the indices of the prompts of a task that no refit learns from.

        Refits of tasks with equal content count too, because they share what is coded.
        """
        asked = self._prompts[task]
        mine = list(range(len(asked)))
        if self._learned(task):  # of too few nothing is
            mine = held_out(self.answers(task), len(self.lessons(task)), self._settings)[1]
        twins = [x for x in self._prompts if x != task and self._content(x) == self._content(task)]
        learned = {answer.prompt for twin in twins for answer in self._learned(twin)}
        return [i for i in mine if asked[i].prompt not in learned]

    def _key(self, task: str, prompts: Sequence[Encoded]) -> str:
        asked = [" ".join(map(str, item.prompt)) for item in prompts]
        return key_of([self._of_base, self._content(task), *asked])

    def _content(self, task: str) -> str:
        if task not in self._contents:  # an adapter's hash reads all of its file
            self._contents[task] = self._adapters[task].content_hash()
        return self._contents[task]

    def _originals(self, task: str) -> TaskFactors:
        return {path: x.factors() for path, x in self._adapters[task].modules.items()}

    def _reference(self, task: str) -> Reference:
        if task not in self._references:
            made = reference_of(self._model, self.answers(task), self._originals(task))
            if not made.is_finite:
                raise not_finite("the adapter's own answers cannot be told", task)
            while self._references and made.nbytes > ROOM - sum(
                x.nbytes for x in self._references.values()
            ):
                # Tasks are asked in turn: were the oldest to go, none would be there in time.
                self._references.popitem()
            self._references[task] = made
        return self._references[task]


def _to_cache(measured: MeasuredHarm) -> list[float]:
    harm, likely_error = measured.harm, measured.likely_error
    shares = harm.likely, likely_error, harm.kl, measured.kl_error, measured.lost
    return [harm.changed, harm.answers, *shares]


def _from_cache(value: Any, answers: int, held_out: bool) -> MeasuredHarm | None:
    """Return a cached measurement of this number of answers; None if the value is not one."""
    if not (isinstance(value, list) and len(value) == 7):
        return None
    fine = all(type(x) in (int, float) and 0 <= x < math.inf for x in value)
    if not fine or value[1] != answers or type(value[0]) is not int or max(value[2], value[6]) > 1:
        return None
    changed, _, likely, likely_error, kl, kl_error, lost = value
    harm = Harm(changed, answers, likely, kl, held_out)
    return MeasuredHarm(harm, likely_error, kl_error, lost)
