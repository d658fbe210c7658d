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

from hydraopt.basemodel.model import Placed, TaskFactors, of_head, place
from hydraopt.basemodel.writing import not_finite
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.harm.lesson import Lesson, Teacher, learner_of
from hydraopt.harm.sides import Sides, as_coded, strongest
from hydraopt.harm.training import Judges, descend
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

__all__ = ["NOT_TRAINED", "refit"]

NOT_TRAINED: Final = "what is coded cannot be trained on the adapter's answers"
"""Error message for logits that are not finite."""


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

    teacher: the original, and answers of all tasks that the content serves.
    coded: the original's modules as they are coded.
    report: called after every step with the steps done and the maximum.

    Raises UsageError for too few answers, AlignmentError for modules that are not linear,
    NumericalError for logits that are not finite.
    """
    if not (teacher.answers and teacher.judging):
        raise _too_few(teacher, settings)
    still = of_head(model, coded)
    trained = {path: x for path, x in coded.items() if path not in still}
    held = {path: x.record for path, x in coded.items() if path in still}
    if not trained:
        return {}
    learner = learner_of(model)
    lesson = Lesson.of(learner, teacher, settings.texts)
    judges = Judges.of(model, teacher, lesson)
    first = judges.drift({p: x.record.factors for p, x in coded.items()})
    if not first.is_finite:
        raise not_finite(NOT_TRAINED)
    least = first.summary().harm.kl
    fixed = place(learner, {path: (x.factors.B, x.factors.A) for path, x in held.items()})
    records = dict[str, PartsRecord]()
    for start, (sides, rate) in enumerate(_starts(trained, teacher.original, settings)):
        later = _later(report, start * settings.steps, settings.steps)
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


def _too_few(teacher: Teacher, settings: HarmSettings) -> UsageError:
    return UsageError(
        explain(
            "too few answers to refit",
            got=len(teacher.answers) + len(teacher.held_out),
            expected=f"at least {settings.held_out} to different prompts",
            do="Give more prompts of the task",
        )
    )


def _later(
    report: Callable[[int, int], None] | None, before: int, steps: int
) -> Callable[[int], None]:
    """Return a callback that reports this start's steps. before: steps of earlier starts."""
    return lambda step: report(before + step, before + steps) if report else None


def _course(
    model: Any,
    lesson: Lesson,
    fixed: Placed,
    sides: Mapping[str, Sides],
    how: HarmSettings,
    report: Callable[[int], None],
) -> Iterator[dict[str, PartsRecord]]:
    """Train from one start, and yield the result as records at every stop.

    fixed: factors on the model that stay as they are.
    sides: sides to train, by module path.
    report: called with the steps so far, after each.
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
        report(step)
        if step in how.stops:
            yield {path: side.look().record for path, side in sides.items()}


def _starts(
    coded: Mapping[str, CodedModule], original: TaskFactors, how: HarmSettings
) -> Iterator[tuple[dict[str, Sides], float]]:
    """Yield the sides to train by module path, and the rate, for each start."""
    yield {p: Sides(x, strongest(x, original[p])) for p, x in coded.items()}, how.rate
    if how.coded_rate is not None:
        yield {p: Sides(x, as_coded(x)) for p, x in coded.items()}, how.coded_rate


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
