"""Generation by a base model with factors on it, greedy unless another choice is given.

A new row is computed with others that are new, then laid beside the rows under way; a row that has
ended is taken out. All layers keep all positions, sliding ones as well: their masks say what they
see, and one layout holds for all.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from hydraopt.errors import NumericalError, UsageError, explain
from hydraopt.model.basemodel import BATCH_TOKENS, Placed, TaskFactors, attached, place
from hydraopt.model.forward import contiguous_head
from hydraopt.model.texts import Encoded, limits_within


class RowCache:
    """N rows of a batch. mask: (N, L), 1 where the cache has a token of the row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []
        # transformers has given the argument a new name.
        known = inspect.signature(model.forward).parameters
        self._argument = "cache" if "cache" in known else "past_key_values"
        self.mask = torch.zeros(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Fill an empty batch with prompts; logits (N, vocabulary) after each."""
        device = self._model.get_input_embeddings().weight.device
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(x)) + [*x] for x in prompts], device=device)
        lengths = torch.tensor([[len(x)] for x in prompts], device=device)
        self.mask = (torch.arange(longest, device=device) >= longest - lengths).long()
        return self._forward(ids, (self.mask.cumsum(-1) - 1).clamp(min=0))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each row; logits (N, vocabulary) after it."""
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        at = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        return self._forward(ids, at)

    def join(self, other: RowCache) -> None:
        """Put the rows of another batch below these."""
        if not len(self):
            self.mask, self._layers = other.mask, other._layers
            return
        length = max(self.mask.shape[1], other.mask.shape[1])
        mask = torch.cat([_padded(x.mask, length, 1) for x in (self, other)])
        # Both or neither: rows under way outlive memory that runs out here.
        layers = [
            (
                torch.cat([_padded(x, length, 2) for x in (mine[0], its[0])]),
                torch.cat([_padded(x, length, 2) for x in (mine[1], its[1])]),
            )
            for mine, its in zip(self._layers, other._layers, strict=True)
        ]
        self.mask, self._layers = mask, layers

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, each as often as given, and no padding that all of them have."""
        if not rows:
            self.mask, self._layers = self.mask[:0, :0], []
            return
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask.index_select(0, index)
        first = int(mask.shape[1] - mask.sum(-1).max())
        self.mask = mask[:, first:]
        self._layers = [
            (k.index_select(0, index)[:, :, first:], v.index_select(0, index)[:, :, first:])
            for k, v in self._layers
        ]

    def _forward(self, ids: Tensor, at: Tensor) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache(self._layers or None)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=at,
            use_cache=True,
            logits_to_keep=1,
            **{self._argument: cache},
        ).logits[:, -1]
        self._layers = [_kept(layer, self.mask) for layer in cache.layers]
        return logits


def _kept(layer: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    fits = all(
        isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] == mask.shape[0]
        and x.shape[2] == mask.shape[1]
        for x in (keys, values)
    )  # fmt: skip
    if not fits or keys is None or values is None:
        raise UsageError(
            explain(
                "the base model's cache is not one of keys and values",
                got=type(layer).__name__,
                expected="attention layers whose keys are (rows, heads, positions, width)",
                do="Serve the exported adapters with another engine",
            )
        )
    return keys, values


def _padded(x: Tensor, length: int, dim: int) -> Tensor:
    """Return x padded with zeros in front to ``length`` in that dimension."""
    missing = length - x.shape[dim]
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x.new_zeros(shape), x], dim)


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
    placed: Placed,
    most: int | Sequence[int],
    ends: Collection[int] | None = None,
    choose: Choice | None = None,
    batch_tokens: int = WRITE_TOKENS,
) -> list[tuple[int, ...]]:
    """Generate the answer to each item.

    If the first step fails with one of NO_ROWS, transformers' own loop writes the answers, one
    after another, which takes longer: the model's cache has other states, or it assigns its own
    positions.

    placed: the factors on the model.
    most: maximum number of tokens per answer, one for each or one for all; lower if the context of
        the model has less room.
    ends: tokens that end an answer and are part of it unless it was truncated; default
        :func:`ends_of`.
    choose: chooses each token; default :func:`likeliest`.
    batch_tokens: maximum number of padded tokens per batch, with answers at their maximum length.

    Raises UsageError for a prompt without a token, or of more tokens than the context of the model,
    and NumericalError for logits that are not finite.
    """
    limits = [most] * len(items) if isinstance(most, int) else list(most)
    if not items:
        return []
    ends = ends_of(model, tokenizer) if ends is None else ends
    limits, choose = limits_within(model, items, limits), choose or likeliest
    prompts = [item.prompt for item in items]
    with attached(model, placed), contiguous_head(model):
        writer = _Writer(model, prompts, limits, ends, choose, batch_tokens)
        try:
            writer.go_on()
        except NO_ROWS:
            return _by_transformers(model, prompts, limits, ends, choose)
        while writer.under_way:
            writer.go_on()
    return [tuple(answer) for answer in writer.answers]


class _Writer:
    """Answers in progress.

    A finished row leaves the batch, which would otherwise take as long as its longest answer, with
    every row. As there is room, other items enter.

    answers: tokens so far, of each item.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        limits: Sequence[int],
        ends: Collection[int],
        choose: Choice,
        batch_tokens: int,
    ) -> None:
        self._model, self._ends, self._batch_tokens = model, ends, batch_tokens
        self._choose, self._prompts, self._limits = choose, prompts, limits
        self._sizes = [len(x) + limit for x, limit in zip(prompts, limits, strict=True)]
        self._waiting = deque(sorted(range(len(prompts)), key=lambda i: self._sizes[i]))
        self._cache, self._full = RowCache(model), 0
        self._rows: list[int] = []  # items, in the cache's order
        self.answers: list[list[int]] = [[] for _ in prompts]

    @property
    def under_way(self) -> bool:
        """Return whether an answer has not ended."""
        return bool(self._rows or self._waiting)

    def go_on(self) -> None:
        """Write a token of each row, and the first of those that come in."""
        logits = []
        if self._rows:
            logits.append(self._cache.step([self.answers[i][-1] for i in self._rows]))
        # A prompt costs a pass of its own, so that a few come in together.
        if len(self._rows) <= _REFILL * self._full and (new := self._invited()):
            logits.append(self._joined(new))
        tokens = self._choose(torch.cat(logits), self._rows).tolist()
        for i, token in zip(self._rows, tokens, strict=True):
            self.answers[i].append(token)
        going = [k for k, i in enumerate(self._rows) if self._goes_on(i)]
        if len(going) < len(self._rows):
            self._cache.keep(going)
            self._rows = [self._rows[k] for k in going]

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
        # Equal prompts are computed once.
        row = {prompt: k for k, prompt in enumerate(dict.fromkeys(self._prompts[i] for i in new))}
        logits = started.start(list(row))
        if len(row) < len(new):
            rows = [row[self._prompts[i]] for i in new]
            started.keep(rows)
            logits = logits[rows]
        self._cache.join(started)
        self._rows += new
        return logits

    def _goes_on(self, i: int) -> bool:
        return len(self.answers[i]) < self._limits[i] and self.answers[i][-1] not in self._ends


def _by_transformers(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    limits: Sequence[int],
    ends: Collection[int],
    choose: Choice,
) -> list[tuple[int, ...]]:
    """Generate one answer after another with transformers' own loop, as :func:`generate`.

    The model's own generation settings are ignored.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    # What a call does not set, transformers takes from the model's own.
    own, answers = model.generation_config, []
    try:
        for i, (prompt, most) in enumerate(zip(prompts, limits, strict=True)):

            def chosen(_ids: Tensor, logits: Tensor, item: int = i) -> Tensor:
                tokens = choose(logits, [item])[:, None]
                return torch.full_like(logits, -torch.inf).scatter(-1, tokens, 0.0)

            plain: Any = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=most, do_sample=False, pad_token_id=0,
                eos_token_id=sorted(ends) or None,
            )  # fmt: skip
            model.generation_config = plain
            ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                logits_processor=LogitsProcessorList([chosen]),
            )
            answers.append(tuple(out[0, len(prompt) :].tolist()))
    finally:
        model.generation_config = own
    return answers


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


def answered(
    model: Any, tokenizer: Any, prompts: Sequence[Encoded], factors: TaskFactors, most: int = 48
) -> list[Encoded]:
    """Answer prompts greedily with the adapted model; unlabelled inputs are enough.

    An answer ends with any of :func:`ends_of`. Raises as :func:`generate`.
    """
    answers = generate(model, tokenizer, prompts, place(model, factors), most)
    return [Encoded(x.prompt, answer) for x, answer in zip(prompts, answers, strict=True)]
