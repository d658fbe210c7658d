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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hydraopt.basemodel.model import Placed, TaskFactors, of_head, place
from hydraopt.basemodel.writing import not_finite
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.harm.sides import Sides, as_coded, strongest
from hydraopt.harm.training import HeldOutAnswers, training_steps
from hydraopt.harm.training_data import Teacher, TrainingData, model_to_train
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
    output_layer = of_head(model, coded)
    trained = {path: x for path, x in coded.items() if path not in output_layer}
    unchanged = {path: x.record for path, x in coded.items() if path in output_layer}
    if not trained:
        return {}
    learner = model_to_train(model)
    data = TrainingData.of(learner, teacher, settings.batch_size)
    judges = HeldOutAnswers.of(model, teacher, data)
    first = judges.drift({p: x.record.factors for p, x in coded.items()})
    if not first.is_finite:
        raise not_finite(NOT_TRAINED)
    least = first.summary().harm.kl
    fixed = place(learner, {path: (x.factors.B, x.factors.A) for path, x in unchanged.items()})
    records = dict[str, PartsRecord]()
    for start, (sides, rate) in enumerate(_starts(trained, teacher.original, settings)):
        report_steps = _reporting(report, start * settings.steps, settings.steps)
        at_rate = replace(settings, learning_rate=rate)
        for trial in _trials(learner, data, fixed, sides, at_rate, report_steps):
            drift = judges.drift({p: x.factors for p, x in (unchanged | trial).items()})
            if not drift.is_finite:
                continue
            kl = drift.summary().harm.kl
            if kl < least and not judges.is_worse(first, drift):
                least, records = kl, trial
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


def _reporting(
    report: Callable[[int, int], None] | None, before: int, steps: int
) -> Callable[[int], None]:
    """Return a callback that reports this start's steps. before: steps of earlier starts."""
    return lambda step: report(before + step, before + steps) if report else None


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
