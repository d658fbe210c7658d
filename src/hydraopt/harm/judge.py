"""Judge: a base model that measures harm on answers, sensitivities of modules, and refits tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import key_of
from hydraopt.basemodel.sensitivity import looks, self_written, sensitivities
from hydraopt.basemodel.writing import NotFiniteError, not_finite
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.harm import cached_values
from hydraopt.harm.answers import MEASURES, Answers
from hydraopt.harm.drift import Reference, drift_of, held_out, reference_of
from hydraopt.harm.refit import NOT_TRAINED, refit
from hydraopt.harm.training_data import Teacher, teacher_of, training_dtype
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import HarmJudge, Look, MeasuredHarm
from hydraopt.sources import source_hash

__all__ = ["AnswerJudge"]

_DECIDES_REFIT: Final = (*MEASURES, "coding", "compress", "merging")
"""Packages whose code decides what a refit learns."""
_DIGITS: Final = 12
"""Hexadecimal digits of an adapter's hash used as the seed of its generated texts: 48 bits."""
_POWER: Final = 0.5
"""Exponent of measured sensitivities. It is below 1 because they are measured at the adapter
itself, and errors are not small enough for them to hold that far (docs/log.md)."""
ROOM: Final = 1 << 29
"""Maximum number of bytes of references in memory."""


class AnswerJudge(Answers, HarmJudge):
    """Judge of harm on the original adapters' own greedy answers; no label is needed.

    Sensitivities, harms and refits are cached on disk as answers are.
    """

    @property
    def look(self) -> Look:
        """Everything that a merge can ask of the base model."""
        judge = self if self._prompts else None
        return Look(judge, self.sensitivities, self.refit if self._refits else None)

    def sensitivities(self) -> dict[str, dict[str, float]]:
        """Return each adapter's sensitivities by module path, to the power of a half.

        Adapters in ``unseen`` are left out. A task with prompts is measured on the beginnings of
        its answers, another one on texts that the adapter generates; their random numbers depend
        on the adapter alone, not on the other adapters.

        Raises AlignmentError for modules that are not linear in the base or do not receive every
        token; UsageError for prompts that the base cannot read, and for a task without prompts if
        there is no token to begin with; NumericalError for an adapter whose text is not finite.
        """
        measured = [name for name in self._adapters if name not in self.unseen]
        tempered = {}
        for number, name in enumerate(measured, 1):
            seen = self._sensitivity(name)
            tempered[name] = {path: value**_POWER for path, value in seen.items()}
            self._progress("measuring sensitivities", number, len(measured))
        return tempered

    def _sensitivity(self, name: str) -> dict[str, float]:
        """Return an adapter's sensitivities by module path, cached."""
        factors, most = self._originals(name), self._settings
        if name in self._prompts:
            answers = self.answers(name)[: most.sensitivity_texts]
            texts = [Encoded(x.prompt, x.target[: most.sensitivity_tokens]) for x in answers]
            depends_on = str([(x.prompt, x.target) for x in texts])
        else:
            seed = self._seed + int(self._adapters[name].content_hash()[:_DIGITS], 16)
            texts, depends_on = None, f"{most.sensitivity_texts} texts of seed {seed}"
        key = key_of(["sensitivities", self._base_key, self._content(name), depends_on])
        cached = cached_values.sensitivities_from_json(self._memory.get(key), factors)
        if cached is not None:
            return cached
        model, tokenizer = self._loaded
        if texts is None:
            try:
                texts = self_written(model, tokenizer, factors, most.sensitivity_texts, seed, name)
            except NotFiniteError:
                raise not_finite("the adapter cannot write text of its own", name) from None
        measured = sensitivities(looks(model, texts, factors), factors)
        self._memory.put(key, measured)
        return measured

    _steps = 0
    """Steps of refits that were taken or remembered."""

    @functools.cached_property
    def _refitted_contents(self) -> set[str]:
        return set()

    @functools.cached_property
    def _references(self) -> dict[str, Reference]:
        return {}

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
        prompts = self._judging_prompts(task)
        every = list(range(len(prompts)))
        held = self._not_trained_on(task) if apart else every
        some = held or every
        parts: list[bytes | str] = [self._key(task, prompts)]
        parts += [f"apart {some}"] if some != every else []
        for path, (b, a) in factors.items():
            parts += [path, b.tobytes(), a.tobytes()]
        key = key_of(parts)
        cached = cached_values.harm_from_json(self._memory.get(key), len(some), bool(held))
        if cached is not None:
            return cached
        drift = drift_of(self._loaded[0], self._reference(task), factors)
        if not drift.is_finite:
            raise not_finite("what coding does to the answers cannot be measured", task)
        measured = drift.only(some).summary(bool(held))
        self._memory.put(key, cached_values.harm_to_json(measured))
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
        contents = {*map(self._content, self._prompts)}
        later = each * len(contents - self._refitted_contents)
        stage = f"training steps, {task} ({len(self._refitted_contents)} of {len(contents)})"

        def report(done: int, most: int) -> None:
            self._steps = before + done
            self._progress(stage, self._steps, before + most + later)

        records = self._refitted(task, modules, report)
        if self._steps == before:  # cached, or nothing to learn from
            report(each, each)
        return records

    def _refitted(
        self,
        task: str,
        modules: Callable[[], Mapping[str, CodedModule]],
        report: Callable[[int, int], None],
    ) -> Mapping[str, PartsRecord]:
        teacher = self._teacher_of_content(task)
        if teacher is None:
            return {}
        coded, model = modules(), self._loaded[0]
        tasks = self._tasks_of_content(task)
        prompts = [self._key(x, y) for x in tasks for y in self._prompts_of(x)]
        training = f"refit {source_hash(*_DECIDES_REFIT)} {training_dtype(model)} {self._settings}"
        key = key_of([training, *prompts, *cached_values.depends_on(coded)])
        cached = cached_values.records_from_json(self._memory.get(key), coded)
        if cached is not None:
            return cached
        try:
            records = refit(model, teacher, coded, report, self._settings)
        except NotFiniteError:
            raise not_finite(NOT_TRAINED, task) from None
        self._memory.put(key, cached_values.records_to_json(records, coded))
        return records

    def _prompts_of(self, task: str) -> tuple[list[Encoded], list[Encoded]]:
        """Return the prompts of a task that measure its harm, and the others."""
        return self._judging_prompts(task), self._training_prompts(task)

    def _teacher(self, task: str) -> Teacher | None:
        """Return what a refit learns of a task; None if too few answers are left to judge."""
        answers, least = self.answers(task), self._settings.least_held_out
        # Answers to train on take minutes: not where even all of them would leave too few judges.
        if len(held_out(answers, len(self._training_prompts(task)), self._settings)[1]) < least:
            return None
        given = self._originals(task), answers, self.training_answers(task), self._settings
        teacher = teacher_of(*given)
        return teacher if teacher.answers and len(teacher.held_out) >= least else None

    def _tasks_of_content(self, task: str) -> list[str]:
        """Return the tasks with prompts that have the content of a task, itself among them."""
        mine = self._content(task)
        return [x for x in self._prompts if x == task or self._content(x) == mine]

    def _teacher_of_content(self, task: str) -> Teacher | None:
        """Return what the refit of a task learns: what each task of its content does.

        An answer that judges for one of them is learned for none, and nothing counts twice.
        """
        teachers = [teacher for x in self._tasks_of_content(task) if (teacher := self._teacher(x))]
        if not teachers:
            return None
        judging = list(dict.fromkeys(x for y in teachers for x in y.judging))
        late = dict.fromkeys(x for y in teachers for x in y.late if x not in judging)
        judges = {*judging, *late}
        answers = dict.fromkeys(x for y in teachers for x in y.answers if x not in judges)
        return (
            Teacher(teachers[0].original, list(answers), judging, list(late)) if answers else None
        )

    def _not_trained_on(self, task: str) -> list[int]:
        """Return the indices of the prompts of a task that its refit does not learn from."""
        teacher = self._teacher_of_content(task)
        learned = {answer.prompt for answer in teacher.answers} if teacher else set()
        answers = self.answers(task)
        return [i for i, x in enumerate(answers) if x.target and x.prompt not in learned]
