"""The originals' own answers to the prompts of their tasks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from hydraopt.adapters import Adapter
from hydraopt.adapters.beyond import beyond_linear
from hydraopt.basemodel.encoding import Encoded, encode_prompt
from hydraopt.basemodel.loading import base_hash
from hydraopt.basemodel.logits import check_logits
from hydraopt.basemodel.memory import JsonCache, cache_folder, key_of, versions
from hydraopt.basemodel.model import TaskFactors, load_model
from hydraopt.basemodel.positions import Reads, check_prompt, reads_of
from hydraopt.basemodel.writing import NotFiniteError, answered, ends_of, not_finite
from hydraopt.errors import UsageError, explain
from hydraopt.harm import cached_values
from hydraopt.harm.prompts import check_prompts_of
from hydraopt.harm.synthetic import remembered_prompts
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings
from hydraopt.progress import Progress, silent
from hydraopt.sources import source_hash
from hydraopt.values import closest, listed

__all__ = ["MEASURES", "Answers"]

MEASURES: Final = ("adapters", "basemodel", "harm", "linalg")
"""Packages whose code decides what is measured."""
BLOCK: Final = 64
"""Prompts that are answered together and have one cache entry: an interrupted run loses no more,
and a run with further prompts reuses the entries of the first ones."""


class Answers:
    """Base model, adapters and prompts of their tasks. The model is loaded when it is first needed.

    Answers are greedy and cached on disk (hydraopt.basemodel.memory).

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
        for name, texts in prompts.items():
            check_prompts_of(self._adapters[name], texts)
        self._base, self._prompts, self._progress = base, prompts, progress or silent
        self._seed, self._refits, self._settings = seed, refits, settings
        self._counts = settings.counts(refits)
        if loaded is not None:
            self._loaded = loaded
        if memory is not None:
            self._memory = memory
        self.answer_tokens = settings.answer_tokens
        self._contents: dict[str, str] = {}
        self.synthetic: dict[str, list[str]] = {}

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
            f"{base_hash(self._base)} {where} {versions()} {source_hash(*MEASURES)} "
            f"{self.answer_tokens} {sorted(self._ends)}"
        )

    @functools.cached_property
    def _memory(self) -> JsonCache:
        return JsonCache(cache_folder() if base_hash(self._base) else None)

    def _key(self, task: str, prompts: Sequence[Encoded]) -> str:
        texts = [" ".join(map(str, item.prompt)) for item in prompts]
        return key_of([self._base_key, self._content(task), *texts])

    def _content(self, task: str) -> str:
        if task not in self._contents:  # an adapter's hash reads all of its file
            self._contents[task] = self._adapters[task].content_hash()
        return self._contents[task]

    def _originals(self, task: str) -> TaskFactors:
        return {path: x.factors() for path, x in self._adapters[task].modules.items()}

    @functools.cached_property
    def _reads(self) -> Reads:
        return reads_of(self._loaded[0])

    @functools.cached_property
    def _encoded(self) -> dict[str, list[Encoded]]:
        """First distinct prompts of each task, as tokens; of all tasks before any is answered.

        Raises UsageError for a prompt without a token, of more than the base reads, or with a token
        that it does not embed.
        """
        encoded = {}
        for task, prompts in self._prompts.items():
            kept: dict[Encoded, None] = {}
            tokenizer = self._loaded[1]
            for number, given in enumerate(prompts, 1):
                text = given if isinstance(given, str) else ""
                item = encode_prompt(tokenizer, given) if isinstance(given, str) else given
                check_prompt(item, self._reads, number, text, task)
                kept.setdefault(item)
                if len(kept) == self._counts[1]:
                    break
            encoded[task] = list(kept)
        return encoded

    def _judging_prompts(self, task: str) -> list[Encoded]:
        """Return the prompts of a task that measure its harm."""
        return self._encoded[task][: self._counts[0]]

    def _training_prompts(self, task: str) -> list[Encoded]:
        """Return the other prompts of a task, which are for a refit."""
        mine, given = self._encoded[task], self._prompts[task]
        missing = self._settings.missing(len(mine)) if self._refits else 0
        examples = [x for x in dict.fromkeys(given) if isinstance(x, str)]
        if not missing or len(examples) < len(mine):  # prompts as tokens cannot be continued
            return mine[self._counts[0] :]
        if task not in self.synthetic:
            report = functools.partial(self._progress, f"writing prompts of {task}")
            key = self._base_key, self._loaded, examples, missing, self._seed
            self.synthetic[task] = remembered_prompts(self._memory, *key, report)
        return [encode_prompt(self._loaded[1], text) for text in self.synthetic[task]]

    def answers(self, task: str) -> list[Encoded]:
        """Return the prompts of a task with the original's greedy answers.

        Raises NumericalError, here and wherever answers are needed, for an adapter with which the
        model's logits are not finite, and UsageError for prompts that the model does not read.
        """
        return self._answered(task, self._judging_prompts(task), "answers")

    def training_answers(self, task: str) -> list[Encoded]:
        """Return the further prompts of a task with the original's answers, those that have any."""
        # A stage of its own, hours later: the time left is estimated from one stage.
        answers = self._answered(task, self._training_prompts(task), "more answers")
        return [answer for answer in answers if answer.target]

    def _answered(self, task: str, prompts: Sequence[Encoded], stage: str) -> list[Encoded]:
        """Return the answers to prompts of a task. stage: name of the stage in progress reports."""
        answers: list[Encoded] = []
        for start in range(0, len(prompts), BLOCK):
            block = prompts[start : start + BLOCK]
            key = self._key(task, block)
            cached = cached_values.answers_from_json(
                self._memory.get(key), len(block), self.answer_tokens, self._reads.tokens
            )
            if cached is None:
                given = *self._loaded, block, self._originals(task)
                try:
                    written = answered(*given, self.answer_tokens)
                except NotFiniteError:
                    raise not_finite("the adapter's own answers cannot be told", task) from None
                cached = [list(item.target) for item in written]
                self._memory.put(key, cached)
                self._progress(f"{stage} of {task}", start + len(block), len(prompts))
            answers += [Encoded(x.prompt, tuple(y)) for x, y in zip(block, cached, strict=True)]
        return answers

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
