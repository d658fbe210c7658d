"""Generation by a base model with factors on it, greedy unless another choice is given."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens, left_padded
from hydraopt.basemodel.logits import contiguous_head
from hydraopt.basemodel.model import BATCH_TOKENS, Placed, TaskFactors, attached_in_blocks, place
from hydraopt.basemodel.positions import limits_within, positions_of
from hydraopt.basemodel.rowcache import RowCache
from hydraopt.errors import NumericalError, UsageError, explain

__all__ = [
    "WRITE_TOKENS",
    "NotFiniteError",
    "Sampling",
    "answered",
    "ends_of",
    "generate",
    "likeliest",
    "not_finite",
]

Choice = Callable[[Tensor, Sequence[int]], Tensor]
"""Chooses the next tokens, (N,), by logits (N, vocabulary) of the items with these indices."""

WRITE_TOKENS = 16 * BATCH_TOKENS
"""Padded tokens of a batch for writing, where every step computes one token of each row."""
_REFILL: Final = 3 / 4
"""Share of a full batch that is left when new rows are added."""
NO_ROWS: Final = (
    AttributeError, IndexError, RuntimeError, TypeError, UsageError, ValueError
)  # fmt: skip
"""Exceptions of a model that caches other states than keys and values, or assigns its own
positions."""


def ends_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, of the model's generation settings and the tokenizer.

    Chat models have several.
    """
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    each = named if isinstance(named, list) else [named]
    return frozenset(x for x in (*each, tokenizer.eos_token_id) if x is not None)


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    factors: Sequence[Placed],
    most: int | Sequence[int],
    batch_tokens: int,
    ends: Collection[int] | None = None,
    choose: Choice | None = None,
) -> list[tuple[int, ...]]:
    """Generate the answer to each item.

    If the first step fails with one of NO_ROWS, all is written again by transformers' own loop,
    which takes longer: the model's cache has other states, or it assigns its own positions.

    factors: factors of each item; a batch may have several.
    most: maximum number of tokens per answer, one for each or one for all; lower if the model has
        fewer positions.
    batch_tokens: maximum number of padded tokens per batch, with answers at their maximum length.
    ends: tokens that end an answer and are part of it unless it was truncated; default the
        tokenizer's EOS.
    choose: chooses each token; default :func:`likeliest`.

    Raises UsageError for a prompt without a token, or of more tokens than the model has positions,
    NumericalError for logits that are not finite, and AlignmentError as
    :func:`hydraopt.basemodel.model.attached_in_blocks`.
    """
    limits = [most] * len(items) if isinstance(most, int) else list(most)
    if not items:
        return []
    if ends is None:
        ends = {tokenizer.eos_token_id} - {None}
    limits, choose = limits_within(model, items, limits), choose or likeliest
    with contiguous_head(model):
        writer = _Writer(model, ends, items, factors, limits, batch_tokens, choose)
        try:
            writer.go_on()
        except NO_ROWS:
            return _in_turn(model, tokenizer, items, factors, limits, batch_tokens, ends, choose)
        while writer.under_way:
            writer.go_on()
    return [tuple(answer) for answer in writer.answers]


class _Writer:
    """Answers in progress.

    A finished row leaves the batch, which would otherwise take as long as its longest answer, with
    every row. As there is room, other items enter.

    said: tokens so far, of each item.
    """

    def __init__(
        self,
        model: Any,
        ends: Collection[int],
        items: Sequence[Encoded],
        factors: Sequence[Placed],
        limits: Sequence[int],
        batch_tokens: int,
        choose: Choice,
    ) -> None:
        self._model, self._ends, self._batch_tokens = model, ends, batch_tokens
        self._choose = choose
        self._prompts, self._factors, self._limits = [x.prompt for x in items], factors, limits
        self._sizes = [len(x.prompt) + limit for x, limit in zip(items, limits, strict=True)]
        kinds = {key: k for k, key in enumerate(dict.fromkeys(map(id, factors)))}
        order = sorted(range(len(items)), key=lambda i: (kinds[id(factors[i])], self._sizes[i]))
        self._waiting = deque(order)
        self._cache, self._full = RowCache(model), 0
        self._rows: list[int] = []  # items, in the cache's order; those of equal factors together
        self.answers: list[list[int]] = [[] for _ in items]

    @property
    def under_way(self) -> bool:
        """Return whether an answer has not ended."""
        return bool(self._rows or self._waiting)

    def go_on(self) -> None:
        """Write a token of each row, and the first of those that come in."""
        logits = []
        if self._rows:
            with _each(self._model, [self._factors[i] for i in self._rows]):
                logits.append(self._cache.step([self.answers[i][-1] for i in self._rows]))
        # A prompt costs a pass of its own, so that a few come in together.
        if len(self._rows) <= _REFILL * self._full and (new := self._invited()):
            logits.append(self._joined(new))
        self._say(self._choose(torch.cat(logits), self._rows).tolist())

    def _invited(self) -> list[int]:
        """Return the items that fit the batch, at least one if the batch is empty."""
        new: list[int] = []
        widest = max((self._sizes[i] for i in self._rows), default=0)
        while self._waiting:
            widest = max(widest, self._sizes[self._waiting[0]])
            count = len(self._rows) + len(new)
            if count and (count + 1) * widest > self._batch_tokens:
                break
            new.append(self._waiting.popleft())
        self._full = len(self._rows) + len(new)
        return new

    def _joined(self, new: Sequence[int]) -> Tensor:
        """Add these items and return the logits of their first tokens, (N, vocabulary)."""
        started = RowCache(self._model)
        # Equal prompts with equal factors are computed once.
        keys = [(id(self._factors[i]), self._prompts[i]) for i in new]
        row = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        once = list(dict(zip(keys, new, strict=True)).values())
        with _each(self._model, [self._factors[i] for i in once]):
            logits = started.start([self._prompts[i] for i in once])
        if len(once) < len(new):
            rows = [row[key] for key in keys]
            started.keep(rows)
            logits = logits[rows]
        self._cache.join(started)
        self._rows += new
        return logits

    def _say(self, tokens: Sequence[int]) -> None:
        """Add a token to each row; rows that are done leave."""
        for i, token in zip(self._rows, tokens, strict=True):
            self.answers[i].append(token)
        going = [k for k, i in enumerate(self._rows) if self._goes_on(i)]
        if len(going) < len(self._rows):
            self._cache.keep(going)
            self._rows = [self._rows[k] for k in going]

    def _goes_on(self, i: int) -> bool:
        return len(self.answers[i]) < self._limits[i] and self.answers[i][-1] not in self._ends


def likeliest(logits: Tensor, _items: Sequence[int] = ()) -> Tensor:
    """Return the greedy tokens, (N,), of logits (N, vocabulary).

    Raises NumericalError for logits that are not finite, because the first token would be written
    as if it were meant.
    """
    tokens = logits.argmax(-1)  # of NaN, where there is one
    if not bool(torch.isfinite(logits.gather(-1, tokens[:, None])).all()):
        raise not_finite("what the model writes cannot be told")
    return tokens


class Sampling:
    """Choice that samples among the ``top`` likeliest tokens.

    likelihoods: log-likelihoods of the sampled tokens by item, in nats. There may be more of them
        than the answer has tokens.
    """

    def __init__(self, seed: int, top: int) -> None:
        self._seed, self._top = seed, top
        self._generators: dict[torch.device, torch.Generator] = {}
        self.likelihoods: dict[int, list[float]] = {}

    def __call__(self, logits: Tensor, items: Sequence[int]) -> Tensor:
        """Return the next tokens. Raises NumericalError as :func:`likeliest`."""
        likeliest(logits)
        device = logits.device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        best, tokens = logits.topk(min(self._top, logits.shape[-1]))
        drawn = torch.multinomial(best.softmax(-1), 1, generator=self._generators[device])
        logs = (best.gather(-1, drawn)[:, 0] - logits.logsumexp(-1)).tolist()
        for item, log in zip(items, logs, strict=True):
            self.likelihoods.setdefault(item, []).append(log)
        return tokens.gather(-1, drawn)[:, 0]


class NotFiniteError(NumericalError):
    """Logits that are not finite. Who knows the adapter raises it again with its name."""


def not_finite(what: str, adapter: str | None = None) -> NotFiniteError:
    """Return the error for non-finite logits, naming the adapter. what: the consequence."""
    return NotFiniteError(
        explain(
            what,
            adapter=adapter,
            got="logits that are not finite",
            expected="finite numbers",
            do="Look at the adapter, or at the base model, for NaN and for large numbers",
        )
    )


def _chosen(choose: Choice, items: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a processor of transformers with which greedy decoding takes the chosen tokens."""

    def process(_ids: Tensor, logits: Tensor) -> Tensor:
        tokens = choose(logits, items)[:, None]
        return torch.full_like(logits, -torch.inf).scatter(-1, tokens, 0.0)

    return process


def _in_turn(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    factors: Sequence[Placed],
    limits: Sequence[int],
    batch_tokens: int,
    ends: Collection[int],
    choose: Choice,
) -> list[tuple[int, ...]]:
    """Generate in batches, one after another, with transformers' own loop."""
    written: list[tuple[int, ...]] = [()] * len(items)
    sizes = [len(item.prompt) + limit for item, limit in zip(items, limits, strict=True)]
    for chunk in _chunks(items, sizes, limits, batch_tokens, positions_of(model)):
        chunk.sort(key=lambda i: id(factors[i]))
        most = max(limits[i] for i in chunk)
        with _each(model, [factors[i] for i in chunk]):
            some = [items[i].prompt for i in chunk]
            chosen = _chosen(choose, chunk)
            answers = _by_transformers(model, tokenizer, some, most, ends, chosen)
        for i, answer in zip(chunk, answers, strict=True):
            written[i] = answer[: limits[i]]
    return written


def _chunks(
    items: Sequence[Encoded],
    sizes: Sequence[int],
    limits: Sequence[int],
    batch_tokens: int,
    positions: int | None,
) -> Iterator[list[int]]:
    """Yield batches of the items by size.

    All rows of a batch are written until its longest answer is done, so items without positions for
    that are written alone.
    """
    for chunk in batches_by_tokens(sizes, batch_tokens):
        most = max(limits[i] for i in chunk)
        longest = max(len(items[i].prompt) for i in chunk) + most - 1
        if positions is None or longest <= positions:
            yield chunk
        else:
            yield from ([i] for i in chunk)


def _each(model: Any, factors: Sequence[Placed]) -> AbstractContextManager[None]:
    """Attach to the model each row's own factors for a batch."""
    runs = [list(run) for _, run in itertools.groupby(factors, key=id)]
    # Factors of all rows fit any module, whichever tokens it sees.
    sizes = [*map(len, runs[:-1]), None]
    return attached_in_blocks(model, [(x[0], n) for x, n in zip(runs, sizes, strict=True)])


def _by_transformers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    most: int,
    ends: Collection[int],
    chosen: Callable[[Tensor, Tensor], Tensor],
) -> list[tuple[int, ...]]:
    """Generate with transformers' own loop, with prompts padded on the left.

    The model's own generation settings are ignored.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    # Padding is seen by no token, so any will do.
    pad = next((x for x in (tokenizer.pad_token_id, *sorted(ends)) if x is not None), 0)
    ids, mask = left_padded(prompts, pad)
    plain: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=most,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    # What a call does not set, transformers takes from the model's own.
    own, model.generation_config = model.generation_config, plain
    choices = LogitsProcessorList([chosen])
    try:
        out = model.generate(input_ids=ids, attention_mask=mask, logits_processor=choices)
    finally:
        model.generation_config = own
    return [_ended(x, ends) for x in out[:, ids.shape[1] :].tolist()]


def _ended(answer: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
    """Return the answer up to the first token that ends it, that one included."""
    stop = next((i for i, token in enumerate(answer, 1) if token in ends), len(answer))
    return tuple(answer[:stop])


def answered(
    model: Any, tokenizer: Any, prompts: Sequence[Encoded], factors: TaskFactors, most: int = 48
) -> list[Encoded]:
    """Answer prompts greedily with the adapted model; unlabelled inputs are enough.

    An answer ends with any of :func:`ends_of`. Raises as :func:`generate`.
    """
    placed = place(model, factors)
    sets, ends = [placed] * len(prompts), ends_of(model, tokenizer)
    answers = generate(model, tokenizer, prompts, sets, most, WRITE_TOKENS, ends)
    return [Encoded(x.prompt, answer) for x, answer in zip(prompts, answers, strict=True)]
