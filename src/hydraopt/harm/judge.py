"""Judge: a base model that measures harm on answers, sensitivities of modules, and refits tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from hydraopt.adapters import Adapter
from hydraopt.adapters.beyond import beyond_linear
from hydraopt.basemodel.encoding import Encoded, encode_prompt
from hydraopt.basemodel.loading import base_hash
from hydraopt.basemodel.memory import JsonCache, are_answers, cache_folder, key_of, versions
from hydraopt.basemodel.model import TaskFactors, check_logits, load_model
from hydraopt.basemodel.positions import check_prompt, reads_of
from hydraopt.basemodel.sensitivity import looks, self_written, sensitivities
from hydraopt.basemodel.writing import NotFiniteError, answered, ends_of, not_finite
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.harm import recall
from hydraopt.harm.drift import Reference, drift_of, held_out, reference_of
from hydraopt.harm.lesson import learns_in
from hydraopt.harm.prompts import check_prompts_of
from hydraopt.harm.refit import NOT_TRAINED, refit, split_answers
from hydraopt.harm.synthetic import remembered_prompts
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import (
    DEFAULT_HARM,
    HarmJudge,
    HarmSettings,
    Look,
    MeasuredHarm,
)
from hydraopt.progress import Progress, silent
from hydraopt.sources import source_hash
from hydraopt.values import closest, listed

__all__ = ["POWER", "AnswerJudge"]

_MEASURES: Final = ("adapters", "basemodel", "harm", "linalg")
"""Packages whose code decides what is measured."""
_TRAINS: Final = (*_MEASURES, "coding", "compress", "merging")
"""Packages whose code decides what a refit learns."""
_DIGITS: Final = 12
"""Hexadecimal digits of an adapter's hash used as the seed of its generated texts: 48 bits."""
POWER: Final = 0.5
"""Exponent of measured sensitivities. It is below 1 because they are measured at the adapter
itself, and errors are not small enough for them to hold that far (docs/log.md)."""
BLOCK: Final = 64
"""Prompts that are answered together and have one cache entry: an interrupted run loses no more,
and a run with further prompts reuses the entries of the first ones."""
ROOM: Final = 1 << 29
"""Maximum number of bytes of references in memory."""


class AnswerJudge(HarmJudge):
    """Base model, adapters and prompts of their tasks. The model is loaded when it is first needed.

    Harm is measured on the original adapters' own greedy answers to the prompts; no label is
    needed. Answers, harms and refits are cached on disk (hydraopt.basemodel.memory).

    synthetic: prompts that the base model has written, by task.
    unseen: adapters whose modules' sensitivities cannot be measured, with the reason: they change
        more than linear modules.
    """

    def __init__(
        self,
        base: str | Path,
        adapters: Sequence[Adapter],
        prompts: Mapping[str, Sequence[str | Encoded]],
        progress: Progress | None = None,
        *,
        seed: int = 0,
        refits: bool = False,
        settings: HarmSettings = DEFAULT_HARM,
        loaded: tuple[Any, Any] | None = None,
        memory: JsonCache | None = None,
    ) -> None:
        """Check the prompts; nothing is loaded.

        base: a folder or name that transformers loads.
        prompts: by task, at least one each, as text or as tokens; duplicates are dropped because
            they add no information. The first ones measure harm.
        seed: of the generated texts.
        refits: whether coded parts will be trained. Then fewer prompts measure harm, and the others
            are for training.
        settings: numbers of prompts and tokens.
        loaded: the base model and its tokenizer. Default: ``base`` is loaded when needed.
        memory: cache. Default that of this machine.

        Raises UsageError for prompts of an unknown task, for a task with an empty list of prompts,
        and for prompts of an adapter with more than low-rank factors, because its answers here
        would not be its own.
        """
        self._adapters = {adapter.name: adapter for adapter in adapters}
        unknown = sorted(set(prompts) - set(self._adapters))
        if unknown:
            expected = closest(unknown, list(self._adapters))
            what = "prompts for a task that was not found"
            raise UsageError(explain(what, got=listed(unknown), expected=expected))
        reasons = ((adapter.name, ", ".join(beyond_linear(adapter))) for adapter in adapters)
        self.unseen = {name: reason for name, reason in reasons if reason}
        for name, asked in prompts.items():
            check_prompts_of(self._adapters[name], asked)
        self._base, self._prompts, self._progress = base, prompts, progress or silent
        self._seed, self._refits, self._settings = seed, refits, settings
        self._counts = settings.counts(refits)
        if loaded is not None:
            self._loaded = loaded
        if memory is not None:
            self._memory = memory
        self.answer_tokens = settings.answer_tokens
        self._references: dict[str, Reference] = {}
        self._contents: dict[str, str] = {}
        self.synthetic: dict[str, list[str]] = {}
        self._refitted_contents: set[str] = set()
        self._steps = 0

    @property
    def look(self) -> Look:
        """Everything that a merge can ask of the base model."""
        judge = self if self._prompts else None
        return Look(judge, self.sensitivities, self.refit if self._refits else None)

    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have prompts."""
        return frozenset(self._prompts)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and its tokenizer. Raises UsageError for a base that cannot be loaded."""
        model, tokenizer = load_model(str(self._base))
        check_logits(model)
        return model, tokenizer

    @functools.cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(ends_of(*self._loaded))

    @functools.cached_property
    def _base_key(self) -> str:
        """Everything that answers depend on besides the adapter and the prompts."""
        model = self._loaded[0]
        where = f"{model.device.type} {torch.get_float32_matmul_precision()} {model.dtype}"
        return (
            f"{base_hash(self._base)} {where} {versions()} {source_hash(*_MEASURES)} "
            f"{self.answer_tokens} {sorted(self._ends)}"
        )

    @functools.cached_property
    def _memory(self) -> JsonCache:
        return JsonCache(cache_folder() if base_hash(self._base) else None)

    def _key(self, task: str, prompts: Sequence[Encoded]) -> str:
        asked = [" ".join(map(str, item.prompt)) for item in prompts]
        return key_of([self._base_key, self._content(task), *asked])

    def _content(self, task: str) -> str:
        if task not in self._contents:  # an adapter's hash reads all of its file
            self._contents[task] = self._adapters[task].content_hash()
        return self._contents[task]

    def _originals(self, task: str) -> TaskFactors:
        return {path: x.factors() for path, x in self._adapters[task].modules.items()}

    @functools.cached_property
    def _asked(self) -> dict[str, list[Encoded]]:
        """First distinct prompts of each task, as tokens; of all tasks before any is answered.

        Raises UsageError for a prompt without a token, of more than the base has positions for, or
        with a token that it does not embed.
        """
        asked = {}
        for task, prompts in self._prompts.items():
            kept: dict[Encoded, None] = {}
            for number, item in enumerate(prompts, 1):
                if isinstance(item, str):
                    model, tokenizer = self._loaded
                    text, item = item, encode_prompt(tokenizer, item)
                    check_prompt(item, reads_of(model), number, text, task)
                kept.setdefault(item)
                if len(kept) == self._counts[1]:
                    break
            asked[task] = list(kept)
        return asked

    def _judged(self, task: str) -> list[Encoded]:
        """Return the prompts of a task that measure its harm."""
        return self._asked[task][: self._counts[0]]

    def _further(self, task: str) -> list[Encoded]:
        """Return the other prompts of a task, which are for a refit."""
        mine, given = self._asked[task], self._prompts[task]
        missing = self._settings.missing(len(mine)) if self._refits else 0
        examples = [x for x in dict.fromkeys(given) if isinstance(x, str)]
        if not missing or len(examples) < len(mine):  # prompts as tokens cannot be continued
            return mine[self._counts[0] :]
        if task not in self.synthetic:
            self._progress(f"writing prompts of {task}", 0, missing)
            key = self._base_key, self._loaded, examples, missing, self._seed
            self.synthetic[task] = remembered_prompts(self._memory, *key)
        return [encode_prompt(self._loaded[1], text) for text in self.synthetic[task]]

    def answers(self, task: str) -> list[Encoded]:
        """Return the prompts of a task with the original's greedy answers.

        Raises NumericalError, here and wherever answers are needed, for an adapter with which the
        model's logits are not finite, and UsageError for prompts that the model does not read.
        """
        return self._answered(task, self._judged(task), "answers")

    def lessons(self, task: str) -> list[Encoded]:
        """Return the further prompts of a task with the original's answers, those that have any."""
        # A stage of its own, hours later: the time left is estimated from one stage.
        said = self._answered(task, self._further(task), "more answers")
        return [answer for answer in said if answer.target]

    def _answered(self, task: str, asked: Sequence[Encoded], stage: str) -> list[Encoded]:
        """Return the answers to prompts of a task. stage: name of the stage in progress reports."""
        said: list[Encoded] = []
        for start in range(0, len(asked), BLOCK):
            block = asked[start : start + BLOCK]
            key = self._key(task, block)
            known = self._memory.get(key)
            if not are_answers(known, len(block)):
                given = *self._loaded, block, self._originals(task)
                try:
                    spoken = answered(*given, self.answer_tokens)
                except NotFiniteError:
                    raise not_finite("the adapter's own answers cannot be told", task) from None
                known = [list(item.target) for item in spoken]
                self._memory.put(key, known)
                self._progress(f"{stage} of {task}", start + len(block), len(asked))
            said += [Encoded(x.prompt, tuple(y)) for x, y in zip(block, known, strict=True)]
        return said

    def cut(self, tasks: Iterable[str] | None = None) -> dict[str, tuple[int, bool]]:
        """Return the number of unfinished answers by task, for tasks that have any.

        Harm is measured on the tokens before the cut. The second value is True if an answer was cut
        at ``answer_tokens``, False if all of them fill the positions of the model.

        tasks: tasks to report. Default all.
        """
        cut = {}
        for name in self._prompts if tasks is None else tasks:
            on = [x for x in self.answers(name) if not self._ends & {*x.target[-1:]}]
            if on:
                cut[name] = len(on), any(len(x.target) >= self.answer_tokens for x in on)
        return cut

    def sensitivities(self) -> dict[str, dict[str, float]]:
        """Return each adapter's sensitivities by module path, tempered by :data:`POWER`.

        Adapters in ``unseen`` are left out. A task with prompts is measured on the beginnings of
        its answers, another one on texts that the adapter generates; their random numbers depend
        on the adapter alone, not on the other adapters.

        Raises AlignmentError for modules that are not linear in the base or do not receive every
        token; UsageError for prompts that the base cannot read, and for a task without prompts if
        there is no token to begin with.
        """
        tempered, most = {}, self._settings
        measured = [name for name in self._adapters if name not in self.unseen]
        model, tokenizer = self._loaded
        for number, name in enumerate(measured):
            factors = self._originals(name)
            if name in self._prompts:
                said = self.answers(name)[: most.sensitivity_texts]
                texts = [Encoded(x.prompt, x.target[: most.sensitivity_tokens]) for x in said]
            else:
                seed = self._seed + int(self._adapters[name].content_hash()[:_DIGITS], 16)
                count = most.sensitivity_texts
                texts = self_written(model, tokenizer, factors, count, seed, name)
            seen = sensitivities(looks(model, texts, factors), factors)
            tempered[name] = {path: value**POWER for path, value in seen.items()}
            self._progress("measuring sensitivities", number + 1, len(measured))
        return tempered

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        apart: bool = False,
    ) -> MeasuredHarm:
        """Return the harm of a task's decoded factors; the arguments are those of HarmJudge.

        Raises AlignmentError for modules that the base does not have as linear ones, and
        NumericalError where the model's logits are not finite, with the original or with these
        factors; then nothing is cached.
        """
        factors = {path: (x.B, x.A) for path, x in sorted(coded().items()) if len(x.A)}
        asked = self._judged(task)
        every = list(range(len(asked)))
        held = self._unlearned(task) if apart else every
        some = held or every
        parts: list[bytes | str] = [self._key(task, asked)]
        parts += [f"apart {some}"] if some != every else []
        for path, (b, a) in factors.items():
            parts += [path, b.tobytes(), a.tobytes()]
        key = key_of(parts)
        known = recall.recalled_harm(self._memory.get(key), len(some), bool(held))
        if known is not None:
            return known
        drift = drift_of(self._loaded[0], self._reference(task), factors)
        if not drift.is_finite:
            raise not_finite("what coding does to the answers cannot be measured", task)
        measured = drift.only(some).summary(bool(held))
        self._memory.put(key, recall.kept_harm(measured))
        return measured

    def _reference(self, task: str) -> Reference:
        if task not in self._references:
            made = reference_of(self._loaded[0], self.answers(task), self._originals(task))
            if not made.is_finite:
                raise not_finite("the adapter's own answers cannot be told", task)
            while self._references and made.nbytes > ROOM - sum(
                x.nbytes for x in self._references.values()
            ):
                # Tasks are asked in turn: were the oldest to go, none would be there in time.
                self._references.popitem()
            self._references[task] = made
        return self._references[task]

    def refit(
        self, task: str, modules: Callable[[], Mapping[str, CodedModule]]
    ) -> Mapping[str, PartsRecord]:
        """Return other records of a task's modules, trained to keep its answers.

        Nothing is returned if training does not help, for a task without prompts, and for too few
        answers; see :func:`hydraopt.harm.refit.refit`. Progress counts steps: one start for each
        content to come, plus the steps of second starts.
        """
        if task not in self._prompts:
            return {}
        # A task is asked after another one of its content only if that has learned nothing.
        self._refitted_contents.add(self._content(task))
        each, before = self._settings.steps, self._steps
        later = each * len({*map(self._content, self._prompts)} - self._refitted_contents)

        def report(done: int, most: int) -> None:
            self._steps = before + done
            self._progress("training on answers, steps", self._steps, before + most + later)

        records = self._trained(task, modules, report)
        if self._steps == before:  # cached, or nothing to learn from
            report(each, each)
        return records

    def _trained(
        self,
        task: str,
        modules: Callable[[], Mapping[str, CodedModule]],
        report: Callable[[int, int], None],
    ) -> Mapping[str, PartsRecord]:
        if not self._learned(task):
            return {}
        answers, more, model = self.answers(task), self.lessons(task), self._loaded[0]
        coded = modules()
        asked = [self._key(task, x) for x in (self._judged(task), self._further(task))]
        learns = f"refit {source_hash(*_TRAINS)} {learns_in(model)} {self._settings}"
        key = key_of([learns, *asked, *recall.depends_on(coded)])
        known = recall.recalled_records(self._memory.get(key), coded)
        if known is not None:
            return known
        given = model, answers, self._originals(task), coded
        try:
            records = refit(*given, more=more, told=report, settings=self._settings)
        except NotFiniteError:
            raise not_finite(NOT_TRAINED, task) from None
        self._memory.put(key, recall.kept_records(records, coded))
        return records

    def _learned(self, task: str) -> list[Encoded]:
        """Return the answers that a refit learns from; none if too few are left to judge."""
        answers, least = self.answers(task), self._settings.least_held_out
        # Lessons take minutes to answer: not where even all of them would leave too few judges.
        if len(held_out(answers, len(self._further(task)), self._settings)[1]) < least:
            return []
        seen, judging, _ = split_answers(answers, self.lessons(task), self._settings)
        return seen if len(judging) >= least else []

    def _unlearned(self, task: str) -> list[int]:
        """Return the indices of the prompts of a task that no refit learns from.

        Refits of tasks with equal content count too, because they share what is coded.
        """
        asked = self._judged(task)
        mine = list(range(len(asked)))
        if self._learned(task):  # of too few nothing is
            mine = held_out(self.answers(task), len(self.lessons(task)), self._settings)[1]
        twins = [x for x in self._prompts if x != task and self._content(x) == self._content(task)]
        learned = {answer.prompt for twin in twins for answer in self._learned(twin)}
        return [i for i in mine if asked[i].prompt not in learned]
