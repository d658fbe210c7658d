"""Base model of ``merge --base`` and ``--prompts``: measures the sensitivity of adapters' answers.

Each adapter reads a few texts of its own, either texts that it generates without a prompt or its
answers to prompts of its task; no label is needed. They show which modules matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from hydraopt.adapters import Adapter
from hydraopt.adapters.beyond import beyond_linear, beyond_lora
from hydraopt.basemodel.encoding import Encoded, encode_prompt
from hydraopt.basemodel.model import TaskFactors, check_logits, load_model
from hydraopt.basemodel.positions import check_prompt, reads_of
from hydraopt.bundle.harm import ANSWER_TOKENS, MOST_ANSWER_TOKENS
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.harm.judge import Judge
from hydraopt.harm.prompts import MOST_PROMPTS
from hydraopt.harm.refit import Schedule
from hydraopt.harm.sensitivity import looks, self_written, sensitivities
from hydraopt.merging.look import JUDGED
from hydraopt.progress import Progress, silent
from hydraopt.values import closest, listed

__all__ = [
    "JUDGED",
    "JUDGED_IF_REFIT",
    "LEARNED",
    "POWER",
    "PROMPTS",
    "TEXTS",
    "Onlooker",
]

TEXTS = 8
"""Number of texts for measuring sensitivities; more texts change little."""
PROMPTS = 32
"""Maximum number of prompts per task that an adapter answers to measure sensitivities."""
_TOKENS = 48
"""Maximum number of tokens of an answer used to measure sensitivities."""
JUDGED_IF_REFIT = 64
"""Maximum number of prompts per task used to measure harm if the other prompts train a refit; a
share of the bytes needs no more (docs/log.md)."""
LEARNED = MOST_PROMPTS
"""Maximum number of prompts per task for a refit, including those that judge it."""
_DIGITS = 12
"""Hexadecimal digits of an adapter's hash used as the seed of its generated texts: 48 bits."""
POWER = 0.5
"""Exponent of measured sensitivities. It is below 1 because they are measured at the adapter
itself, and errors are not small enough for them to hold that far (docs/log.md)."""


class Onlooker:
    """The base model at hand, and texts of every adapter to look at it with.

    ``unseen`` says of which adapters the base model does not tell which modules matter, and why:
    those that are more than changes of its linear modules. ``sensitivities`` is what hydraopt.merge
    takes as ``sensitivity``.
    """

    def __init__(
        self,
        base: str,
        adapters: Sequence[Adapter],
        prompts: Mapping[str, Sequence[str]],
        progress: Progress | None = None,
        seed: int = 0,
        refits: bool = False,
        answer_tokens: int = ANSWER_TOKENS,
    ) -> None:
        """Load the base model and check the prompts.

        base: a folder or name that transformers loads.
        prompts: by task, at least one each; duplicates are dropped because they add no information.
        refits: whether coded parts will be trained. Harm is then measured on fewer prompts
            (JUDGED_IF_REFIT), and the others are for training (up to LEARNED).
        answer_tokens: maximum number of tokens per answer to judge and to learn from, 1 to
            MOST_ANSWER_TOKENS.

        Raises UsageError for other numbers of tokens, for prompts of an unknown task or of an
        adapter with more than low-rank factors (its answers here would not be its own), for no
        prompts, and for a base that cannot be loaded.
        """
        _check_tokens(answer_tokens)
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
        self._base = base
        self._model, self._tokenizer = load_model(base)
        check_logits(self._model)
        self._reads = reads_of(self._model)
        self._prompts = prompts
        self._progress = progress or silent
        self._seed, self._refits = seed, refits
        self._answer_tokens = answer_tokens
        self._mended: set[str] = set()
        self._steps = 0

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
        for number, name in enumerate(looked_at):
            factors = self._factors(name)
            if name in self._prompts:
                texts = self._answers(name)[:TEXTS]
            else:
                drawn = self._seed + int(self._adapters[name].content_hash()[:_DIGITS], 16)
                texts = self_written(self._model, self._tokenizer, factors, TEXTS, drawn, name)
            seen = sensitivities(looks(self._model, texts, factors), factors)
            tempered[name] = {path: value**POWER for path, value in seen.items()}
            self._progress("seeing what matters", number + 1, len(looked_at))
        return tempered

    @functools.cached_property
    def judge(self) -> Judge:
        """Measures harm on the first prompts, JUDGED of a task at most, as hydraopt.merge takes it;
        knows those that a refit learns from.

        Raises UsageError for a prompt without a token, of more than the base has positions for, or
        with a token that it does not embed.
        """
        judged, learned = (JUDGED_IF_REFIT, LEARNED) if self._refits else (JUDGED, 0)
        every = {name: self._different(name, max(judged, learned)) for name in self._prompts}
        asked = {name: prompts[:judged] for name, prompts in every.items()}
        lessons = {name: prompts[judged:] for name, prompts in every.items()}
        named = (self._base, self._model, self._tokenizer, self._adapters, asked)
        return Judge(
            *named,
            lessons=lessons,
            progress=self._progress,
            answer_tokens=self._answer_tokens,
        )

    def refit(
        self, name: str, modules: Callable[[], Mapping[str, CodedModule]]
    ) -> Mapping[str, PartsRecord]:
        """See :meth:`hydraopt.harm.judge.Judge.refit`. Progress counts steps: those of one
        start for each task that is to come, and of a task that takes a second start those too."""
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
        """Different contents of the tasks that have prompts: tasks of equal content are asked
        about once, or until one has learned something."""
        return frozenset(self._adapters[name].content_hash() for name in self._prompts)

    def _different(self, name: str, most: int) -> list[Encoded]:
        """Return the first prompts of a task as tokens, no two alike."""
        kept: dict[Encoded, None] = {}
        for number, text in enumerate(self._prompts[name], 1):
            item = encode_prompt(self._tokenizer, text)
            check_prompt(item, self._reads, number, text, name)
            kept.setdefault(item)
            if len(kept) == most:
                break
        return list(kept)

    def _factors(self, name: str) -> TaskFactors:
        modules = self._adapters[name].modules
        return {path: module.factors() for path, module in modules.items()}

    def _answers(self, name: str) -> list[Encoded]:
        """Return the first prompts with how the original's answers begin, which the judge
        remembers."""
        said = self.judge.answers(name)[:PROMPTS]
        return [Encoded(answer.prompt, answer.target[:_TOKENS]) for answer in said]


def _check_tokens(count: int) -> None:
    if not 1 <= count <= MOST_ANSWER_TOKENS:
        what, wanted = "cannot judge so many tokens of an answer", f"1 to {MOST_ANSWER_TOKENS:,}"
        raise UsageError(explain(what, got=f"{count:,}", expected=wanted))


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
