"""Training data of a refit: the originals' answers, and their hidden states at each token."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.basemodel.batches import batch_of_each, batches_of
from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens
from hydraopt.basemodel.logits import NextTokens, logits_of
from hydraopt.basemodel.model import Placed, TaskFactors, attached, hidden_states, place
from hydraopt.basemodel.products import has_bfloat16
from hydraopt.capacity import most_memory
from hydraopt.harm.drift import held_out, held_out_of_more
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

__all__ = ["Teacher", "TrainingData", "model_to_train", "teacher_of", "training_dtype"]

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
    (:func:`hydraopt.harm.drift.held_out`, ``held_out_of_more``).
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
