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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hydraopt.basemodel.model import Placed, TaskFactors, of_head, place
from hydraopt.basemodel.writing import not_finite
from hydraopt.coding.chunks import ChunkReader, ChunkWriter
from hydraopt.coding.records import PartsRecord, read_record, states_mode, write_record
from hydraopt.compress.recode import CodedModule
from hydraopt.harm.drift import Drift, drift_of, likely_changes, reference_of, surely_more
from hydraopt.harm.sides import Sides, as_coded, strongest
from hydraopt.harm.training_data import Teacher, TrainingData, model_to_train
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

__all__ = [
    "NOT_TRAINED",
    "depends_on",
    "is_worse",
    "records_from_json",
    "records_to_json",
    "refit",
    "training_steps",
]

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
