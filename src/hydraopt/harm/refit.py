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
held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hydraopt.basemodel.model import Placed, TaskFactors, of_head, place
from hydraopt.basemodel.writing import not_finite
from hydraopt.coding.forms import Way
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule, Recoded, recode
from hydraopt.errors import UsageError, explain
from hydraopt.harm.lesson import Lesson, Teacher, learner_of
from hydraopt.harm.training import Judges, descend
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.shapes import Factors
from hydraopt.linalg.svd import halved, thin
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

__all__ = ["NOT_TRAINED", "refit"]

NOT_TRAINED: Final = "what is coded cannot be trained on the adapter's answers"
"""Error message for logits that are not finite."""


def refit(
    model: Any,
    teachers: Sequence[Teacher],
    adapter: TaskFactors,
    coded: Mapping[str, CodedModule],
    told: Callable[[int, int], None] | None = None,
    settings: HarmSettings = DEFAULT_HARM,
) -> dict[str, PartsRecord]:
    """Train the modules in ``coded``, the output layer aside, to keep more of the answers.

    Returns records by module path; none if no trial is better than before on held-out answers. Both
    losses and held-out answers are compared on the next tokens that an original holds likely.

    teachers: the original, or the originals of all tasks that the content serves.
    adapter: factors of what was coded, in the form of ``Teacher.original``; with one teacher, the
        same.
    told: called after every step with the steps done and the maximum.

    Raises UsageError for too few answers, AlignmentError for modules that are not linear,
    NumericalError for logits that are not finite.
    """
    if not all(x.answers and x.judging for x in teachers):
        raise _too_few(teachers, settings)
    still = of_head(model, coded)
    trained = {path: x for path, x in coded.items() if path not in still}
    held = {path: x.record for path, x in coded.items() if path in still}
    if not trained:
        return {}
    learner = learner_of(model)
    lesson = Lesson.of(learner, teachers, settings.texts)
    judges = Judges.of(model, teachers, lesson)
    first = judges.drift({p: x.record.factors for p, x in coded.items()})
    if not first.is_finite:
        raise not_finite(NOT_TRAINED)
    least = first.summary().harm.kl
    fixed = place(learner, {path: (x.factors.B, x.factors.A) for path, x in held.items()})
    records = dict[str, PartsRecord]()
    for start, (sides, rate) in enumerate(_starts(trained, adapter, settings)):
        later = _later(told, start * settings.steps, settings.steps)
        for tried in _course(learner, lesson, fixed, sides, replace(settings, rate=rate), later):
            drift = judges.drift({p: x.factors for p, x in (held | tried).items()})
            if not drift.is_finite:
                continue
            kl = drift.summary().harm.kl
            if kl < least and not judges.outvoted(first, drift):
                least, records = kl, tried
        if records:
            break
    return records


def _too_few(teachers: Sequence[Teacher], settings: HarmSettings) -> UsageError:
    return UsageError(
        explain(
            "too few answers to refit",
            got=min(len(x.answers) + len(x.held_out) for x in teachers),
            expected=f"at least {settings.held_out} to different prompts",
            do="Give more prompts of the task",
        )
    )


def _later(
    told: Callable[[int, int], None] | None, before: int, steps: int
) -> Callable[[int], None]:
    """Return a callback that reports this start's steps. before: steps of earlier starts."""
    return lambda step: told(before + step, before + steps) if told else None


def _course(
    model: Any,
    lesson: Lesson,
    fixed: Placed,
    sides: Mapping[str, _Sides],
    how: HarmSettings,
    told: Callable[[int], None],
) -> Iterator[dict[str, PartsRecord]]:
    """Train from one start, and yield the result as records at every stop.

    fixed: factors on the model that stay as they are.
    sides: sides to train, by module path.
    told: called with the steps so far, after each.
    """

    def learn(step: int, batch: int) -> None:
        if (step - 1) % how.again == 0:
            for side in sides.values():
                side.look()
        free = {path: x.factors() for path, x in sides.items()}
        lesson.learn(model, {**fixed, **free}, batch)

    learned = [x for side in sides.values() for x in (side.left, side.right)]
    holds = _holds(list(sides), how)
    for step in descend(how, learned, len(lesson.pages), learn):
        for path in holds.get(step, ()):
            sides[path].hold()
        told(step)
        if step in how.stops:
            yield {path: side.look().record for path, side in sides.items()}


def _starts(
    coded: Mapping[str, CodedModule], original: TaskFactors, how: HarmSettings
) -> Iterator[tuple[dict[str, _Sides], float]]:
    """Yield the sides to train by module path, and the rate, for each start."""
    yield {p: _Sides(x, _strongest(x, original[p])) for p, x in coded.items()}, how.rate
    if how.coded_rate is not None:
        yield {p: _Sides(x, _as_coded(x)) for p, x in coded.items()}, how.coded_rate


def _strongest(coded: CodedModule, original: tuple[Any, Any]) -> Factors:
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
        return _as_coded(coded)
    return halved(parts.U, parts.s, parts.V.T, record.count)


def _as_coded(coded: CodedModule) -> Factors:
    """Return the coded parts, both sides of each of one length."""
    factors = coded.record.factors
    even = np.sqrt(
        np.linalg.norm(factors.A, axis=1) / np.maximum(np.linalg.norm(factors.B, axis=0), 1e-300)
    )
    return Factors(factors.B * even, factors.A / even[:, None])


def _holds(paths: Sequence[str], how: HarmSettings) -> dict[int, list[str]]:
    """Return the modules to freeze, by step.

    The first stage is frozen after half of the steps; the last one learns to the end.
    """
    ordered = sorted(paths, key=_in_order)
    holds: dict[int, list[str]] = {}
    for stage in range(how.stages - 1):
        step = how.steps * (how.stages + stage) // (2 * how.stages)
        start, stop = (len(ordered) * x // how.stages for x in (stage, stage + 1))
        holds.setdefault(step, []).extend(ordered[start:stop])
    return holds


def _in_order(path: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key by which layer 10 comes after layer 2."""
    return tuple((0, int(x)) if x.isdigit() else (1, x) for x in path.split("."))


class _Sides:
    """Both sides of a module's parts while they are trained.

    left (m, k) or (p, k), right (n, k) or (q, k): in units of their root mean square at the start;
    of a shared side, its coordinates over an orthonormal basis of the shared space.
    """

    def __init__(self, coded: CodedModule, start: Factors) -> None:
        """Start from B (m, k), A (k, n), the parts at the beginning of the training."""
        self._coded = coded
        b, a = (torch.tensor(x, dtype=torch.float32) for x in (start.B, start.A.T))
        record = coded.record
        self._spans = (
            _span(record.left.way, coded.left),
            _span(record.right.way, coded.right),
        )
        inside = [x if q is None else q.T @ x for x, q in zip((b, a), self._spans, strict=True)]
        self._units = [float(x.square().mean().sqrt()) or 1.0 for x in inside]
        self.left, self.right = (
            (x / unit).requires_grad_() for x, unit in zip(inside, self._units, strict=True)
        )
        self._lost = [torch.zeros_like(x) for x in inside]
        self._held: Recoded | None = None

    def look(self) -> Recoded:
        """Code the sides as they are, and remember what that does to them."""
        if self._held is not None:
            return self._held
        with torch.no_grad():
            b, a = (x.double().numpy() for x in self._multiplied(self._inside()))
        made = recode(Factors(b, a.T), self._coded)
        seen = (torch.tensor(x, dtype=torch.float32) for x in (made.factors.B, made.factors.A.T))
        inside = [x if q is None else q.T @ x for x, q in zip(seen, self._spans, strict=True)]
        with torch.no_grad():
            self._lost = [x - y for x, y in zip(inside, self._inside(), strict=True)]
        return made

    def hold(self) -> None:
        """Freeze the parts at their current coded values."""
        self._held = self.look()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B (m, k) and A (k, n) as rounded, with gradients as if they were not."""
        if self._held is not None:
            factors = self._held.factors
            b, a = (torch.tensor(x, dtype=torch.float32) for x in (factors.B, factors.A))
            return b, a
        b, a = self._multiplied(
            [x + lost for x, lost in zip(self._inside(), self._lost, strict=True)]
        )
        return b, a.T

    def _inside(self) -> list[Tensor]:
        return [x * unit for x, unit in zip((self.left, self.right), self._units, strict=True)]

    def _multiplied(self, inside: Sequence[Tensor]) -> list[Tensor]:
        return [x if q is None else q @ x for x, q in zip(inside, self._spans, strict=True)]


def _span(way: Way, basis: Basis | None) -> Tensor | None:
    """Return an orthonormal basis (N, q) of what a shared side can be; None for any other side."""
    if way is not Way.SHARED or basis is None:
        return None
    return torch.tensor(basis.orthonormal, dtype=torch.float32)
