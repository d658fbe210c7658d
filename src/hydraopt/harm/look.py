"""Base model at hand: sensitivities, harm and refits of adapters, for ``merge(look=...)``.

Each adapter reads a few texts of its own, either texts that it generates without a prompt or its
answers to prompts of its task; no label is needed. They show which modules matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hydraopt.adapters import Adapter
from hydraopt.adapters.beyond import beyond_linear, beyond_lora
from hydraopt.basemodel.encoding import Encoded, encode_prompt
from hydraopt.basemodel.model import TaskFactors, check_logits, load_model
from hydraopt.basemodel.positions import check_prompt, reads_of
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.judging import BaseJudge
from hydraopt.harm.refit import Schedule
from hydraopt.harm.sensitivity import looks, self_written, sensitivities
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings, Look, MeasuredHarm
from hydraopt.progress import Progress, silent
from hydraopt.values import closest, listed

__all__ = ["POWER", "BaseModelLook"]

_DIGITS: Final = 12
"""Hexadecimal digits of an adapter's hash used as the seed of its generated texts: 48 bits."""
POWER: Final = 0.5
"""Exponent of measured sensitivities. It is below 1 because they are measured at the adapter
itself, and errors are not small enough for them to hold that far (docs/log.md)."""


class BaseModelLook(BaseJudge):
    """Base model, adapters and prompts of their tasks. The model is loaded when it is first asked.

    unseen: adapters whose modules' sensitivities cannot be measured, with the reason: they change
        more than linear modules.
    """

    def __init__(
        self,
        base: str,
        adapters: Sequence[Adapter],
        prompts: Mapping[str, Sequence[str]],
        progress: Progress | None = None,
        *,
        seed: int = 0,
        refits: bool = False,
        settings: HarmSettings = DEFAULT_HARM,
    ) -> None:
        """Check the prompts; nothing is loaded.

        base: a folder or name that transformers loads.
        prompts: by task, at least one each; duplicates are dropped because they add no information.
        seed: of the generated texts.
        refits: whether coded parts will be trained. Then fewer prompts measure harm, and the others
            are for training.
        settings: numbers of prompts and tokens.

        Raises UsageError for prompts of an unknown task, for a task with an empty list of prompts,
        and for prompts of an adapter with more than low-rank factors, because its answers here
        would not be its own.
        """
        unknown = sorted(set(prompts) - {adapter.name for adapter in adapters})
        if unknown:
            expected = closest(unknown, [adapter.name for adapter in adapters])
            what = "prompts for a task that was not found"
            raise UsageError(explain(what, got=listed(unknown), expected=expected))
        self._adapters = {adapter.name: adapter for adapter in adapters}
        reasons = ((adapter.name, ", ".join(beyond_linear(adapter))) for adapter in adapters)
        self.unseen = {name: reason for name, reason in reasons if reason}
        for name, asked in prompts.items():
            _check(self._adapters[name], asked)
        self._base, self._prompts, self._progress = base, prompts, progress or silent
        self._seed, self._refits, self._settings = seed, refits, settings
        self.answer_tokens = settings.answer_tokens
        self._mended: set[str] = set()
        self._steps = 0

    @property
    def look(self) -> Look:
        """All that a merge can ask of the base model."""
        judge = self if self._prompts else None
        return Look(judge, self.sensitivities, self.refit if self._refits else None)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The model and its tokenizer. Raises UsageError for a base that cannot be loaded."""
        model, tokenizer = load_model(self._base)
        check_logits(model)
        return model, tokenizer

    def sensitivities(self) -> dict[str, dict[str, float]]:
        """Return each adapter's sensitivities by module path, tempered by :data:`POWER`.

        Adapters in ``unseen`` are left out. A task without prompts is measured on texts that the
        adapter generates; their random numbers depend on the adapter alone, not on the other
        adapters.

        Raises AlignmentError for modules that are not linear in the base or do not receive every
        token; UsageError for prompts that the base cannot read, and for a task without prompts if
        there is no token to begin with.
        """
        tempered = {}
        looked_at = [name for name in self._adapters if name not in self.unseen]
        model, tokenizer = self._loaded
        count = self._settings.sensitivity_texts
        for number, name in enumerate(looked_at):
            factors = self._factors(name)
            if name in self._prompts:
                texts = self._beginnings(name)
            else:
                drawn = self._seed + int(self._adapters[name].content_hash()[:_DIGITS], 16)
                texts = self_written(model, tokenizer, factors, count, drawn, name)
            seen = sensitivities(looks(model, texts, factors), factors)
            tempered[name] = {path: value**POWER for path, value in seen.items()}
            self._progress("seeing what matters", number + 1, len(looked_at))
        return tempered

    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have prompts."""
        return frozenset(self._prompts)

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float,
        apart: bool = False,
    ) -> MeasuredHarm:
        """Measure the harm of a task's decoded factors; see :class:`AnswerJudge`."""
        return self.judge.measure(task, coded, error, apart)

    @functools.cached_property
    def judge(self) -> AnswerJudge:
        """Judge with the first prompts of each task; the others are for a refit.

        Raises UsageError for a prompt without a token, of more than the base has positions for, or
        with a token that it does not embed.
        """
        most, (model, tokenizer) = self._settings, self._loaded
        judged, learned = most.prompts, 0
        if self._refits:
            judged, learned = most.prompts_if_refit, most.refit_prompts
        every = {name: self._distinct(name, max(judged, learned)) for name in self._prompts}
        return AnswerJudge(
            self._base,
            model,
            tokenizer,
            self._adapters,
            {name: prompts[:judged] for name, prompts in every.items()},
            lessons={name: prompts[judged:] for name, prompts in every.items()},
            progress=self._progress,
            settings=most,
        )

    def refit(
        self, name: str, modules: Callable[[], Mapping[str, CodedModule]]
    ) -> Mapping[str, PartsRecord]:
        """Train a task's coded parts; see :meth:`AnswerJudge.refit`.

        Progress counts steps: one start for each task to come, plus the steps of second starts.
        """
        if name in self._prompts:
            # Of a content another task is asked where one has learned nothing.
            self._mended.add(self._adapters[name].content_hash())
        each, before = Schedule().steps, self._steps
        later = each * len(self._contents - self._mended)

        def told(done: int, most: int) -> None:
            self._steps = before + done
            self._progress("training on answers, steps", self._steps, before + most + later)

        records = self.judge.refit(name, modules, told)
        if name in self._prompts and self._steps == before:  # remembered, or nothing to learn from
            told(each, each)
        return records

    @functools.cached_property
    def _contents(self) -> frozenset[str]:
        """Distinct contents of the tasks that have prompts.

        Tasks of equal content are refitted once, or until one has learned something.
        """
        return frozenset(self._adapters[name].content_hash() for name in self._prompts)

    def _distinct(self, name: str, most: int) -> list[Encoded]:
        """Return the first distinct prompts of a task as tokens."""
        kept: dict[Encoded, None] = {}
        model, tokenizer = self._loaded
        reads = reads_of(model)
        for number, text in enumerate(self._prompts[name], 1):
            item = encode_prompt(tokenizer, text)
            check_prompt(item, reads, number, text, name)
            kept.setdefault(item)
            if len(kept) == most:
                break
        return list(kept)

    def _factors(self, name: str) -> TaskFactors:
        modules = self._adapters[name].modules
        return {path: module.factors() for path, module in modules.items()}

    def _beginnings(self, name: str) -> list[Encoded]:
        """Return the first prompts with the beginnings of the original's answers."""
        most = self._settings
        said = self.judge.answers(name)[: most.sensitivity_texts]
        return [Encoded(x.prompt, x.target[: most.sensitivity_tokens]) for x in said]


def _check(adapter: Adapter, prompts: Sequence[str]) -> None:
    if not prompts:
        raise UsageError(explain("no prompts", adapter=adapter.name, expected="at least one"))
    reasons, extras = [*beyond_lora(adapter)], sorted(adapter.extras)
    reasons += [f"{len(extras)} further tensors, {extras[0]} among them"] if extras else []
    if reasons:
        raise UsageError(
            explain(
                "prompts of an adapter that is more than low-rank factors",
                adapter=adapter.name,
                got=", ".join(reasons),
                expected="LoRA pairs alone, without which its answers here are not its own",
                do="Leave its prompts out",
            )
        )
