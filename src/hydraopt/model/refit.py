"""Refit: the coded parts of an adapter trained to keep its own answers, rounding included.

The encoder rounds each module to be near the original's weights. A refit trains both sides of all
parts together, by the KL divergence from the original at the tokens of its own answers. Each step
uses rounded parts, so the parts learn to compensate for each other's rounding. The result is
records of as many parts, in the same ways and at the same rate. Some answers are held out: training
stops where their KL is least, and a result is discarded if it does not help there or surely changes
more of them.

Training starts from the original's strongest parts, which usually end best. With few parts they may
end worse than the coded parts; then training starts again from the coded parts.

Training has stages: the modules of a stage are frozen at their coded values, and the others
continue to learn what these lost.

Sources: quantisation-aware training with straight-through gradients (Bengio et al. 2013,
1308.3432); noise in the rounding's place (Defossez et al. 2022, 2104.09987); distillation from the
model's own words (LLM-QAT, 2305.17888); freezing what is coded, step by step (INQ, 1702.03044).
Differs in what is free, the rank-one parts of an adapter, and in the coder, a trellis whose rate is
unchanged.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.codec import (
    Basis,
    ChunkReader,
    ChunkWriter,
    CodedModule,
    Factors,
    PartsRecord,
    Recoded,
    Way,
    halved,
    most_memory,
    read_record,
    recode,
    states_mode,
    thin,
    write_record,
)
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model.basemodel import (
    Placed,
    TaskFactors,
    attached,
    has_bfloat16,
    hidden_states,
    of_head,
    place,
)
from hydraopt.model.drift import (
    Drift,
    drift_of,
    held_out,
    held_out_of_more,
    likely_changes,
    reference_of,
    surely_more,
)
from hydraopt.model.forward import NextTokens, batch_of_each, batches_of, logits_of
from hydraopt.model.generation import not_finite
from hydraopt.model.texts import Batch, Encoded, batches_by_tokens


def strongest(coded: CodedModule, original: tuple[Any, Any]) -> Factors:
    """Return the original's strongest parts, projected into the space of shared sides.

    Returns the coded parts if the original has fewer.
    """
    whole = thin(*(np.asarray(x, np.float64) for x in original))
    u, v, record = whole.U * whole.s, whole.V, coded.record
    if record.left.way is Way.SHARED and coded.left is not None:
        u = coded.left.orthonormal @ (coded.left.orthonormal.T @ u)
    if record.right.way is Way.SHARED and coded.right is not None:
        v = coded.right.orthonormal @ (coded.right.orthonormal.T @ v)
    parts = thin(u, v.T)
    if parts.s.size < record.count:
        return as_coded(coded)
    return halved(parts.U, parts.s, parts.V.T, record.count)


def as_coded(coded: CodedModule) -> Factors:
    """Return the coded parts, both sides of each of one length."""
    factors = coded.record.factors
    even = np.sqrt(
        np.linalg.norm(factors.A, axis=1) / np.maximum(np.linalg.norm(factors.B, axis=0), 1e-300)
    )
    return Factors(factors.B * even, factors.A / even[:, None])


class Sides:
    """Both sides of a module's parts while they are trained.

    left (m, k) or (p, k), right (n, k) or (q, k): in units of their root mean square at the start;
    of a shared side, its coordinates over an orthonormal basis of the shared space.
    """

    def __init__(self, coded: CodedModule, start: Factors) -> None:
        """Start from B (m, k), A (k, n), the parts at the beginning of the training."""
        self._coded = coded
        b, a = (torch.tensor(x, dtype=torch.float32) for x in (start.B, start.A.T))
        record = coded.record
        self._shared_bases = (
            _shared_basis(record.left.way, coded.left),
            _shared_basis(record.right.way, coded.right),
        )
        coordinates = self._projected((b, a))
        self._units = [float(x.square().mean().sqrt()) or 1.0 for x in coordinates]
        self.left, self.right = (
            (x / unit).requires_grad_() for x, unit in zip(coordinates, self._units, strict=True)
        )
        self._rounding = [torch.zeros_like(x) for x in coordinates]
        self._frozen: Recoded | None = None

    def recode(self) -> Recoded:
        """Code the sides as they are, and remember what that does to them."""
        if self._frozen is not None:
            return self._frozen
        with torch.no_grad():
            b, a = (x.double().numpy() for x in self._expanded(self._scaled()))
        coded = recode(Factors(b, a.T), self._coded)
        rounded = coded.factors.B, coded.factors.A.T
        coordinates = self._projected([torch.tensor(x, dtype=torch.float32) for x in rounded])
        with torch.no_grad():
            self._rounding = [x - y for x, y in zip(coordinates, self._scaled(), strict=True)]
        return coded

    def freeze(self) -> None:
        """Freeze the parts at their current coded values."""
        self._frozen = self.recode()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B (m, k) and A (k, n) as rounded, with gradients as if they were not."""
        if self._frozen is not None:
            factors = self._frozen.factors
            b, a = (torch.tensor(x, dtype=torch.float32) for x in (factors.B, factors.A))
            return b, a
        b, a = self._expanded(
            [x + rounding for x, rounding in zip(self._scaled(), self._rounding, strict=True)]
        )
        return b, a.T

    def _scaled(self) -> list[Tensor]:
        return [x * unit for x, unit in zip((self.left, self.right), self._units, strict=True)]

    def _projected(self, sides: Sequence[Tensor]) -> list[Tensor]:
        bases = zip(sides, self._shared_bases, strict=True)
        return [x if q is None else q.T @ x for x, q in bases]

    def _expanded(self, coordinates: Sequence[Tensor]) -> list[Tensor]:
        bases = zip(coordinates, self._shared_bases, strict=True)
        return [x if q is None else q @ x for x, q in bases]


def _shared_basis(way: Way, basis: Basis | None) -> Tensor | None:
    """Return an orthonormal basis (N, q) of what a shared side can be; None for any other side."""
    if way is not Way.SHARED or basis is None:
        return None
    return torch.tensor(basis.orthonormal, dtype=torch.float32)


_TOKENS: Final = 64
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""
MOST_BATCH_TOKENS: Final = 4096
"""Maximum number of padded tokens per batch, except for a single longer text."""
_LIKELY: Final = 16
"""Number of the original's most likely tokens at a place; the refit uses those of all places."""
_MEMORY_SHARE: Final = 4
"""A copy of the model takes one part in so many of the memory that we may use, at most."""
MOST_STORED: Final = 1 << 30
"""Maximum number of bytes of targets that are stored; the others are recomputed on each use."""


def model_to_train(model: Any) -> Any:
    """Return the model to train: a copy in the type of :func:`training_dtype`, or the model itself.

    The result is always judged on the model.
    """
    dtype = training_dtype(model)
    if dtype is next(model.parameters()).dtype:
        return model
    copies = {id(x): nn.Parameter(x.to(dtype), requires_grad=False) for x in model.parameters()}
    return copy.deepcopy(model, copies)


def training_dtype(model: Any) -> torch.dtype:
    """Return the number type to train in.

    bfloat16 for a model in float32 if the processor multiplies such numbers and the machine has
    room for a copy: a step takes little more than half as long, and a gradient needs no more
    digits. Otherwise the model's own type.
    """
    weights = list(model.parameters())
    size = sum(x.numel() for x in weights) * torch.bfloat16.itemsize
    plain = all(x.dtype is torch.float32 and x.device.type == "cpu" for x in weights)
    pays = plain and has_bfloat16() and size <= most_memory() / _MEMORY_SHARE
    return torch.bfloat16 if pays else weights[0].dtype


@dataclass(frozen=True)
class Teacher:
    """An original adapter and its answers.

    original: B (m, r) with the scale inside, A (r, n), by module path.
    answers: prompts with its answers as targets, to learn from.
    judging: others, to judge by.
    late: more of these, perhaps to training rows, which must not outvote ``judging``.
    """

    original: TaskFactors
    answers: Sequence[Encoded]
    judging: Sequence[Encoded] = ()
    late: Sequence[Encoded] = ()

    @property
    def held_out(self) -> list[Encoded]:
        """All answers that judge."""
        return [*self.judging, *self.late]


def teacher_of(
    original: TaskFactors,
    answers: Sequence[Encoded],
    more: Sequence[Encoded] = (),
    settings: HarmSettings = DEFAULT_HARM,
) -> Teacher:
    """Return a teacher, its answers split into those to learn from and those that judge.

    answers: prompts with the original's answers as targets.
    more: others, perhaps to prompts of its training.

    Copies of a judge are removed from the training set, which may become empty. The more there are
    of ``more``, the more of ``answers`` judge, and then of ``more`` as well
    (:func:`hydraopt.model.drift.held_out`, ``held_out_of_more``).
    """
    others = [x for x in more if x.target]
    learned_from, judged_by = held_out(answers, len(others), settings)
    answered = len(learned_from) + len(judged_by)
    judged_later = held_out_of_more(len(judged_by), answered, len(others), settings)
    judging, late = [answers[i] for i in judged_by], [others[i] for i in judged_later]
    judges = {*judging, *late}
    learned = [x for x in (*(answers[i] for i in learned_from), *others) if x not in judges]
    return Teacher(original, learned, judging, late)


@dataclass(frozen=True)
class _TrainingBatch:
    """A batch of a teacher's answers.

    target (N, width): inputs of the teacher's output layer; None where they are recomputed.
    """

    batch: Batch
    target: Tensor | None


@dataclass(frozen=True)
class TrainingData:
    """Training data of a refit.

    batches: batches of answers of similar length.
    original: the teacher's factors on the model.
    next_tokens: those that matter. Others are not computed, because a large vocabulary takes
        most of the time.
    """

    batches: list[_TrainingBatch]
    original: Placed
    next_tokens: NextTokens

    @classmethod
    def of(cls, model: Any, teacher: Teacher, batch_size: int) -> TrainingData:
        """Prepare the training data of a teacher.

        batch_size: texts per batch; fewer if they are long, because a gradient stores all
            activations.
        """
        stored, tokens, room = list[_TrainingBatch](), list[Tensor](), MOST_STORED
        original = place(model, teacher.original)
        batches = _batches(model, teacher.answers, batch_size)
        judging = [batch for _, batch in batches_of(model, teacher.held_out)]
        for number, batch in enumerate((*batches, *judging)):
            target = _target(model, batch, original)
            tokens += [batch.labels, _likely_tokens(model, target, original)]
            if number < len(batches):
                room -= target.nbytes
                stored.append(_TrainingBatch(batch, target if room >= 0 else None))
        every: Tensor = torch.cat(tokens).unique()  # type: ignore[no-untyped-call]
        return cls(stored, original, NextTokens.of(model, every))

    def add_gradients(self, model: Any, placed: Placed, number: int) -> None:
        """Add the gradients of the KL per answer, mean over the answers of a batch.

        placed: B (m, k) and A (k, n) by path; those of the output layer get no gradients.
        """
        batch, target = self.batches[number].batch, self.batches[number].target
        if target is None:
            target = _target(model, batch, self.original)
        dtype = target.dtype
        with attached(model, {path: (b.to(dtype), a.to(dtype)) for path, (b, a) in placed.items()}):
            hidden = hidden_states(model, batch).float()
        # The loss in pieces, each of whose logits are freed before the next.
        leaf = hidden.detach().requires_grad_()
        answers = int(batch.row.max()) + 1
        for start in range(0, len(leaf), _TOKENS):
            with torch.no_grad():
                want = self._logs(model, target[start : start + _TOKENS], self.original)
            got = self._logs(model, leaf[start : start + _TOKENS], placed)
            kl = F.kl_div(got, want, log_target=True, reduction="sum")
            torch.autograd.backward(kl / answers)
        torch.autograd.backward(hidden, leaf.grad)

    def _logs(self, model: Any, hidden: Tensor, placed: Placed) -> Tensor:
        return logits_of(model, hidden, placed, self.next_tokens).log_softmax(-1)


def _batches(model: Any, answers: Sequence[Encoded], size: int) -> list[Batch]:
    """Return all answers in batches of similar length, ``size`` in each or fewer long ones."""
    by_length = sorted(answers, key=len)
    groups = [by_length[i : i + size] for i in range(0, len(by_length), size)]
    return batch_of_each(model, [part for group in groups for part in _split(group)])


def _split(texts: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Yield texts of similar length in parts of MOST_BATCH_TOKENS, or one longer text."""
    for chunk in batches_by_tokens([len(text) for text in texts], MOST_BATCH_TOKENS):
        yield [texts[i] for i in chunk]


@torch.no_grad()
def _target(model: Any, batch: Batch, original: Placed) -> Tensor:
    """Return the inputs of the original's output layer for a batch, (N, width)."""
    with attached(model, original):
        return hidden_states(model, batch)


@torch.no_grad()
def _likely_tokens(model: Any, target: Tensor, original: Placed) -> Tensor:
    """Return the tokens that the original holds likely at any place of a batch, no two alike."""
    likely = []
    for start in range(0, len(target), _TOKENS):
        logits = logits_of(model, target[start : start + _TOKENS], original)
        likely.append(logits.topk(min(_LIKELY, logits.shape[-1])).indices.flatten().cpu())
    every: Tensor = torch.cat(likely).unique()  # type: ignore[no-untyped-call]
    return every


NOT_TRAINED: Final = "what is coded cannot be trained on the adapter's answers"
"""Error message for logits that are not finite."""
_WARM_UP: Final = 5
"""Steps in which the rate rises to its full value."""


def refit(
    model: Any,
    teacher: Teacher,
    coded: Mapping[str, CodedModule],
    report: Callable[[int, int], None] | None = None,
    settings: HarmSettings = DEFAULT_HARM,
) -> dict[str, PartsRecord]:
    """Train the modules in ``coded``, the output layer aside, to keep more of the answers.

    Returns records by module path; none if no trial is better than before on held-out answers. Both
    losses and held-out answers are compared on the next tokens that the original holds likely.

    teacher: the original, and answers of all tasks that the content serves: at least one to learn
        from and one that judges.
    coded: the original's modules as they are coded.
    report: called after every step with the steps done and the maximum.

    Raises AlignmentError for modules that are not linear, NumericalError for logits that are not
    finite.
    """
    output_layer = of_head(model, coded)
    trained = {path: x for path, x in coded.items() if path not in output_layer}
    unchanged = {path: x.record for path, x in coded.items() if path in output_layer}
    if not trained:
        return {}
    learner = model_to_train(model)
    data = TrainingData.of(learner, teacher, settings.batch_size)
    answers = teacher.held_out, teacher.original
    # Only the next tokens of the training data are compared.
    reference = reference_of(model, *answers, data.next_tokens.tokens)

    def judged(changed: Mapping[str, PartsRecord]) -> Drift:
        factors = {path: x.record.factors for path, x in coded.items()}
        factors |= {path: x.factors for path, x in changed.items()}
        return drift_of(model, reference, {path: (x.B, x.A) for path, x in factors.items()})

    first = judged({})
    if not first.is_finite:
        raise not_finite(NOT_TRAINED)
    least = first.summary().harm.kl
    fixed = place(learner, {path: (x.factors.B, x.factors.A) for path, x in unchanged.items()})
    records = dict[str, PartsRecord]()
    for start, (sides, rate) in enumerate(_starts(trained, teacher.original, settings)):
        before = start * settings.steps

        def report_step(step: int, before: int = before) -> None:
            if report:
                report(before + step, before + settings.steps)

        at_rate = replace(settings, learning_rate=rate)
        for trial in _trials(learner, data, fixed, sides, at_rate, report_step):
            drift = judged(trial)
            if not drift.is_finite:
                continue
            kl = drift.summary().harm.kl
            if kl < least and not is_worse(first, drift, len(teacher.judging)):
                least, records = kl, trial
        if records:
            break
    return records


def is_worse(before: Drift, after: Drift, decisive: int) -> bool:
    """Return whether a drift with less KL is worse all the same.

    decisive: number of the first answers, which the others must not outvote.
    """
    first = range(decisive)
    kl = (x.only(first).kl_by_answer for x in (before, after))
    return surely_more(*kl) or surely_more(likely_changes(before), likely_changes(after))


def _trials(
    model: Any,
    data: TrainingData,
    fixed: Placed,
    sides: Mapping[str, Sides],
    settings: HarmSettings,
    report: Callable[[int], None],
) -> Iterator[dict[str, PartsRecord]]:
    """Train from one start, and yield the result as records whenever it is judged.

    fixed: factors on the model that stay as they are.
    sides: sides to train, by module path.
    report: called with the steps so far, after each.
    """

    def add_gradients(step: int, batch: int) -> None:
        if (step - 1) % settings.recode_every == 0:
            for side in sides.values():
                side.recode()
        free = {path: x.factors() for path, x in sides.items()}
        data.add_gradients(model, {**fixed, **free}, batch)

    parameters = [x for side in sides.values() for x in (side.left, side.right)]
    frozen = _freezing(list(sides), settings)
    for step in training_steps(settings, parameters, len(data.batches), add_gradients):
        for path in frozen.get(step, ()):
            sides[path].freeze()
        report(step)
        if step in settings.judge_after:
            yield {path: side.recode().record for path, side in sides.items()}


def training_steps(
    settings: HarmSettings,
    parameters: Sequence[Tensor],
    batches: int,
    add_gradients: Callable[[int, int], None],
) -> Iterator[int]:
    """Take steps with Adam, and yield the number of each after it is done.

    parameters: leaves that require a gradient.
    batches: number of batches to draw from.
    add_gradients: called with the step, 1 for the first, and the number of its batch.
    """
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(0.9, 0.98))
    order, waiting = np.random.default_rng(0), list[int]()
    for step in range(1, settings.steps + 1):
        waiting = waiting or order.permutation(batches).tolist()
        decay = 1 - (step - 1) / settings.steps
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(step / _WARM_UP, 1.0) * decay
        optimizer.zero_grad()
        add_gradients(step, waiting.pop())
        optimizer.step()
        yield step


def _starts(
    coded: Mapping[str, CodedModule], original: TaskFactors, settings: HarmSettings
) -> Iterator[tuple[dict[str, Sides], float]]:
    """Yield the sides to train by module path, and the rate, for each start."""
    yield {p: Sides(x, strongest(x, original[p])) for p, x in coded.items()}, settings.learning_rate
    if settings.coded_learning_rate is not None:
        yield {p: Sides(x, as_coded(x)) for p, x in coded.items()}, settings.coded_learning_rate


def _freezing(paths: Sequence[str], settings: HarmSettings) -> dict[int, list[str]]:
    """Return the modules to freeze, by step.

    The first stage is frozen after half of the steps; the last one learns to the end.
    """
    ordered = sorted(paths, key=_layer_order)
    frozen: dict[int, list[str]] = {}
    for stage in range(settings.stages - 1):
        step = settings.steps * (settings.stages + stage) // (2 * settings.stages)
        start, stop = (len(ordered) * x // settings.stages for x in (stage, stage + 1))
        frozen.setdefault(step, []).extend(ordered[start:stop])
    return frozen


def _layer_order(path: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key by which layer 10 comes after layer 2."""
    return tuple((0, int(x)) if x.isdigit() else (1, x) for x in path.split("."))


def depends_on(coded: Mapping[str, CodedModule]) -> list[bytes | str]:
    """Return all of some modules that a refit of them depends on, for the key of a cache."""
    parts: list[bytes | str] = []
    for path, module in sorted(coded.items()):
        record = module.record
        parts += [path, str(record.mode.code), record.exponents.tobytes()]
        for side in (record.left, record.right):
            parts.append(side.values.tobytes())
            for block in (side.coordinates, side.own, side.residual and side.residual.basis.block):
                parts.append(b"" if block is None else block.spreads.tobytes())
        parts += [b"" if x is None else x.vectors.tobytes() for x in module.bases]
    return parts


def records_to_json(
    records: Mapping[str, PartsRecord], coded: Mapping[str, CodedModule]
) -> dict[str, Any]:
    """Return the records of some of these modules as JSON values: one stream, as in a bundle."""
    writer = ChunkWriter()
    for path, record in sorted(records.items()):
        write_record(writer, record, states_mode(coded[path].bases, coded[path].start))
        writer.end_record(record.numbers)
    data = base64.b64encode(writer.finish()).decode("ascii")
    return {"modules": sorted(records), "stream": data}


def records_from_json(
    value: Mapping[str, Any], coded: Mapping[str, CodedModule]
) -> dict[str, PartsRecord]:
    """Return what :func:`records_to_json` made this value of, with the same ``coded``."""
    paths = value["modules"]
    reader = ChunkReader(base64.b64decode(value["stream"]), len(paths), lambda _: None)
    records = {}
    for path in paths:
        module, before = coded[path], coded[path].record
        m, n = before.left.values.shape[0], before.right.values.shape[0]
        record = read_record(reader, m, n, module.bases, module.start)
        reader.end_record()
        assert record is not None  # a refit keeps the number of parts
        records[path] = record
    reader.close()
    return records
