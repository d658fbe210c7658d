"""Judge: a base model that measures harm on answers, sensitivities of modules, and refits tasks.

The adapted model reads a few texts; for every module the inputs x and the gradients g of the
answers' log-probability in its outputs are stored. An error E of the module's dW changes a token's
log-probability by g^T E x to first order, and the mean of the square is the effect of E on the KL
divergence (the diagonal of the Fisher information). For noise of unit size on one side of dW its
expectation has a closed form: see :func:`sensitivities`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from hydraopt.adapters import Adapter, beyond_linear
from hydraopt.codec import CodedModule, Factors, PartsRecord, thin
from hydraopt.errors import UsageError, explain
from hydraopt.files import cache_root, from_json, to_json
from hydraopt.merging import DEFAULT_HARM, HarmJudge, HarmSettings, Look, MeasuredHarm
from hydraopt.model.basemodel import (
    BATCH_TOKENS,
    TaskFactors,
    attached,
    base_hash,
    hidden_states,
    load_model,
    misfit,
    of_head,
    place,
)
from hydraopt.model.cache import JsonCache, key_of, versions
from hydraopt.model.drift import Reference, drift_of, held_out, reference_of
from hydraopt.model.forward import check_logits, logits_of
from hydraopt.model.generation import (
    NotFiniteError,
    Sampling,
    answered,
    ends_of,
    generate,
    not_finite,
)
from hydraopt.model.prompts import check_prompts_of, synthetic_prompts
from hydraopt.model.refit import (
    NOT_TRAINED,
    Teacher,
    depends_on,
    records_from_json,
    records_to_json,
    refit,
    teacher_of,
    training_dtype,
)
from hydraopt.model.texts import Encoded, batches_by_tokens, check_prompt, collate, encode_prompt
from hydraopt.notes import closest, listed
from hydraopt.progress import Progress, silent
from hydraopt.version import source_hash

_WRITTEN: Final = 32
"""Tokens of a text that the model writes."""


def sensitivities(
    model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors
) -> dict[str, float]:
    """Return by module path the effect of a unit of squared Frobenius error, for hydraopt.merge.

    With the thin SVD dW = U diag(s) V^T: noise N on the input side, E = U diag(s) N^T, gives
    E[(g^T E x)^2] = |diag(s) U^T g|^2 |x|^2 for N of unit variance, and |E|^2 = n |s|^2; the output
    side likewise. The value is the sum of both ratios, mean over the tokens of all texts.

    A batch has BATCH_TOKENS padded tokens, or one longer text, because all activations of the model
    are in memory at once.

    Raises AlignmentError for a module that receives nothing, or only some of the tokens, such as an
    expert: a number for it would not hold for other texts.
    """
    thinned = {p: thin(np.asarray(b, float), np.asarray(a, float)) for p, (b, a) in factors.items()}
    sums, tokens = dict.fromkeys(factors, 0.0), sum(len(text) - 1 for text in texts)
    for chunk in batches_by_tokens([len(text) for text in texts], BATCH_TOKENS):
        seen = activations(model, [texts[i] for i in chunk], factors)
        for path, t in thinned.items():
            x, g = (y.double().numpy() for y in seen[path])
            out = np.square(g @ (t.U * t.s)).sum(1) * np.square(x).sum(1) / x.shape[1]
            into = np.square(x @ (t.V * t.s)).sum(1) * np.square(g).sum(1) / g.shape[1]
            sums[path] += float((out + into).sum())
    values = {p: sums[p] / max(tokens, 1) / max(t.energy, 1e-300) for p, t in thinned.items()}
    # A module without any effect still has to be a number above zero.
    least = max(max(values.values(), default=0.0) * 1e-6, 1e-300)
    return {path: max(value, least) for path, value in values.items()}


def activations(
    model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return x (N, n) and g (N, m) of each module of the adapted model, without padding.

    x: inputs. g: gradients of the answers' log-probability in the module's outputs. The output
    layer has tokens of answers only. Raises AlignmentError as :func:`sensitivities`.
    """
    placed, batch, head = place(model, factors), collate(list(texts)), of_head(model, factors)
    real = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        real[row, : len(text) - 1] = True
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str) -> Any:
        def see(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = args[0].detach(), output
            if output.requires_grad:
                output.retain_grad()

        return see

    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    # One leaf that wants a gradient, so that every later output has one.
    handles = [embeddings.register_forward_hook(lambda _m, _a, out: out.requires_grad_())]
    try:
        with attached(model, placed):
            handles += [model.get_submodule(p).register_forward_hook(watch(p)) for p in factors]
            logits = logits_of(model, hidden_states(model, batch), {})  # all factors are there
            chance = logits.log_softmax(-1).gather(1, batch.labels[:, None])
            torch.autograd.backward(chance.sum())
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for path in factors:
        both = seen.get(path)
        fits = both is not None and all(
            path in head or x.shape[:-1] in (real.shape, (real.numel(),)) for x in both
        )
        if both is None or not fits:
            raise misfit(
                model,
                f"does not give module {path} every token of a text, so what matters cannot be "
                "seen",
                "nothing" if both is None else tuple(both[0].shape),
                f"{real.shape[0]} rows of {real.shape[1]} tokens",
                "Merge without --base",
            )
        x, output = both
        # No answer depends on an output without a gradient.
        g = torch.zeros_like(output) if output.grad is None else output.grad
        if path not in head:  # the model may give a module rows and tokens as one dimension
            x, g = (y.reshape(-1, y.shape[-1])[real.flatten()] for y in (x, g))
        found[path] = x, g
    return found


def self_written(
    model: Any,
    tokenizer: Any,
    factors: TaskFactors,
    count: int,
    seed: int,
    name: str | None = None,
) -> list[Encoded]:
    """Return texts that the adapted model samples from its first token on.

    name: of the adapter, for the error.

    Raises UsageError for a tokenizer without a token to begin with, and NumericalError for logits
    that are not finite.
    """
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    if start is None:
        raise UsageError(
            explain(
                "the base model cannot write text of its own",
                adapter=name,
                got="a tokenizer without BOS and EOS",
                expected="a token to begin with",
                do="Give prompts of the task",
            )
        )
    items, placed = [Encoded((start,), ())] * count, place(model, factors)
    choose = Sampling(seed, model.get_output_embeddings().weight.shape[0])
    texts = generate(model, tokenizer, items, placed, _WRITTEN, (), choose)
    return [Encoded((start,), answer) for answer in texts]


_MEASURES: Final = ("adapters", "codec", "model")
"""Packages whose code decides what is measured."""
_DECIDES_REFIT: Final = (*_MEASURES, "merging")
"""Packages whose code decides what a refit learns."""
_DIGITS: Final = 12
"""Hexadecimal digits of an adapter's hash used as the seed of its generated texts: 48 bits."""
_POWER: Final = 0.5
"""Exponent of measured sensitivities. It is below 1 because they are measured at the adapter
itself, and errors are not small enough for them to hold that far (docs/log.md)."""
BLOCK: Final = 64
"""Prompts that are answered together and have one cache entry: an interrupted run loses no more,
and a run with further prompts reuses the entries of the first ones."""
ROOM: Final = 1 << 29
"""Maximum number of bytes of references in memory."""


class AnswerJudge(HarmJudge):
    """Judge of harm on the original adapters' own greedy answers; no label is needed.

    The model is loaded when it is first needed. Answers, sensitivities, harms and refits are cached
    on disk (hydraopt.model.cache).

    synthetic: prompts that the base model has written, by task.
    unseen: adapters whose modules' sensitivities cannot be measured, with the reason: they change
        more than linear modules.
    """

    def __init__(
        self,
        base: str | Path,
        adapters: Sequence[Adapter],
        prompts: Mapping[str, Sequence[str]],
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
        prompts: by task, at least one each; duplicates are dropped because they add no
            information. The first ones measure harm.
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
        self.synthetic: dict[str, list[str]] = {}
        self._contents: dict[str, str] = {}
        self._refitted: list[str] = []
        self._references: dict[str, Reference] = {}

    @property
    def look(self) -> Look:
        """Everything that a merge can ask of the base model."""
        judge = self if self._prompts else None
        return Look(judge, self.sensitivities, self.refit if self._refits else None)

    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have prompts."""
        return frozenset(self._prompts)

    # --- the model and the keys of the cache -------------------------------------------------

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and its tokenizer. Raises UsageError for a base that cannot be loaded."""
        model, tokenizer = load_model(str(self._base))
        check_logits(model)
        return model, tokenizer

    @functools.cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return ends_of(*self._loaded)

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
        return JsonCache(cache_root() / "harm" if base_hash(self._base) else None)

    def _key(self, task: str, prompts: Sequence[Encoded]) -> str:
        texts = [" ".join(map(str, item.prompt)) for item in prompts]
        return key_of([self._base_key, self._content(task), *texts])

    def _content(self, task: str) -> str:
        if task not in self._contents:  # an adapter's hash reads all of its file
            self._contents[task] = self._adapters[task].content_hash()
        return self._contents[task]

    def _originals(self, task: str) -> TaskFactors:
        return {path: x.factors() for path, x in self._adapters[task].modules.items()}

    # --- answers -----------------------------------------------------------------------------

    @functools.cached_property
    def _encoded(self) -> dict[str, list[Encoded]]:
        """First distinct prompts of each task, as tokens; of all tasks before any is answered.

        Raises UsageError for a prompt without a token, of more than the base reads, or with a token
        that it does not embed.
        """
        encoded = {}
        model, tokenizer = self._loaded
        for task, prompts in self._prompts.items():
            kept: dict[Encoded, None] = {}
            for number, text in enumerate(prompts, 1):
                item = encode_prompt(tokenizer, text)
                check_prompt(model, item, number, text, task)
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
        mine = self._encoded[task]
        missing = self._settings.missing(len(mine)) if self._refits else 0
        if not missing:
            return mine[self._counts[0] :]
        if task not in self.synthetic:
            examples = list(dict.fromkeys(self._prompts[task]))
            report = functools.partial(self._progress, f"writing prompts of {task}")
            asked = *self._loaded, examples, missing, self._seed, report
            key = key_of(["synthetic", self._base_key, str(missing), str(self._seed), *examples])
            texts = self._memory.recall(key, lambda: synthetic_prompts(*asked))
            self.synthetic[task] = [type(examples[0])(text) for text in texts]
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
            targets = self._memory.get(key)
            if targets is None:
                given = *self._loaded, block, self._originals(task)
                try:
                    written = answered(*given, self.answer_tokens)
                except NotFiniteError:
                    raise not_finite("the adapter's own answers cannot be told", task) from None
                targets = [item.target for item in written]
                self._memory.put(key, targets)
                self._progress(f"{stage} of {task}", start + len(block), len(prompts))
            answers += [Encoded(x.prompt, tuple(y)) for x, y in zip(block, targets, strict=True)]
        return answers

    def cut(self, tasks: Iterable[str] | None = None) -> dict[str, tuple[int, bool]]:
        """Return the number of unfinished answers by task, for tasks that have any.

        Harm is measured on the tokens before the cut. The second value is True if an answer was cut
        at ``answer_tokens``, False if all of them fill the context of the model.

        tasks: tasks to report. Default all.
        """
        cut = {}
        for name in self._prompts if tasks is None else tasks:
            on = [x for x in self.answers(name) if not self._ends & {*x.target[-1:]}]
            if on:
                cut[name] = len(on), any(len(x.target) >= self.answer_tokens for x in on)
        return cut

    # --- sensitivities -----------------------------------------------------------------------

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
        texts: list[Encoded] | None = None
        if name in self._prompts:
            answers = self.answers(name)[: most.sensitivity_texts]
            texts = [Encoded(x.prompt, x.target[: most.sensitivity_tokens]) for x in answers]
        seed = self._seed + int(self._content(name)[:_DIGITS], 16)
        seen_on = f"{most.sensitivity_texts} of seed {seed}" if texts is None else str(texts)
        key = key_of(["sensitivities", self._base_key, self._content(name), seen_on])

        def measure() -> dict[str, float]:
            model, tokenizer = self._loaded
            try:
                mine = texts or self_written(
                    model, tokenizer, factors, most.sensitivity_texts, seed, name
                )
            except NotFiniteError:
                raise not_finite("the adapter cannot write text of its own", name) from None
            return sensitivities(model, mine, factors)

        measured: dict[str, float] = self._memory.recall(key, measure)
        return measured

    # --- harm --------------------------------------------------------------------------------

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
        parts: list[bytes | str] = [self._key(task, prompts), f"{some} {bool(held)}"]
        for path, (b, a) in factors.items():
            parts += [path, b.tobytes(), a.tobytes()]

        def measure() -> Any:
            drift = drift_of(self._loaded[0], self._reference(task), factors)
            if not drift.is_finite:
                raise not_finite("what coding does to the answers cannot be measured", task)
            return to_json(drift.only(some).summary(bool(held)))

        return from_json(MeasuredHarm, self._memory.recall(key_of(parts), measure))

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

    # --- refits ------------------------------------------------------------------------------

    def refit(
        self, task: str, modules: Callable[[], Mapping[str, CodedModule]]
    ) -> Mapping[str, PartsRecord]:
        """Return other records of a task's modules, trained to keep its answers.

        Nothing is returned if training does not help, for a task without prompts, and for too few
        answers; see :func:`hydraopt.model.refit.refit`. Progress counts the steps of each content.
        """
        if task not in self._prompts:
            return {}
        # A task is asked after another one of its content only if that has learned nothing.
        self._refitted += [self._content(task)] if self._content(task) not in self._refitted else []
        contents = {*map(self._content, self._prompts)}
        stage = f"training steps, {task} ({len(self._refitted)} of {len(contents)})"
        teacher = self._teacher(task)
        if teacher is None:
            return {}
        coded, model = modules(), self._loaded[0]
        prompts = [
            self._key(twin, some)
            for twin in self._tasks_of_content(task)
            for some in (self._judging_prompts(twin), self._training_prompts(twin))
        ]
        training = f"refit {source_hash(*_DECIDES_REFIT)} {training_dtype(model)} {self._settings}"

        def train() -> Any:
            report = functools.partial(self._progress, stage)
            try:
                records = refit(model, teacher, coded, report, self._settings)
            except NotFiniteError:
                raise not_finite(NOT_TRAINED, task) from None
            return records_to_json(records, coded)

        key = key_of([training, *prompts, *depends_on(coded)])
        return records_from_json(self._memory.recall(key, train), coded)

    def _tasks_of_content(self, task: str) -> list[str]:
        """Return the tasks with prompts that have the content of a task, itself among them."""
        mine = self._content(task)
        return [x for x in self._prompts if x == task or self._content(x) == mine]

    def _teacher(self, task: str) -> Teacher | None:
        """Return what the refit of a task learns: the answers of all tasks of its content.

        None if too few answers are left to judge.
        """
        twins, least = self._tasks_of_content(task), self._settings.least_held_out
        answers = list(dict.fromkeys(x for twin in twins for x in self.answers(twin)))
        more = {x for twin in twins for x in self._training_prompts(twin)}
        # Answers to train on take minutes: not where even all of them would leave too few judges.
        if len(held_out(answers, len(more), self._settings)[1]) < least:
            return None
        lessons = dict.fromkeys(x for twin in twins for x in self.training_answers(twin))
        others = [x for x in lessons if x not in set(answers)]
        teacher = teacher_of(self._originals(task), answers, others, self._settings)
        return teacher if teacher.answers and len(teacher.held_out) >= least else None

    def _not_trained_on(self, task: str) -> list[int]:
        """Return the indices of the prompts of a task that its refit does not learn from."""
        teacher = self._teacher(task)
        learned = {answer.prompt for answer in teacher.answers} if teacher else set()
        answers = self.answers(task)
        return [i for i, x in enumerate(answers) if x.target and x.prompt not in learned]
