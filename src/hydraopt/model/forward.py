"""Forward passes over batches of texts, their logits and likelihoods.

A row of such a batch has several texts as one trie. A node is a token; a mask lets it attend only
to the nodes on the way from the root, and its position is that in its own text. So several answers
to a question need the question once, and the prompts of a task need their common instruction once
per row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.errors import UsageError, explain
from hydraopt.model.basemodel import (
    BATCH_TOKENS,
    Placed,
    attached,
    hidden_states,
    of_head,
    products_of,
    states_of,
)
from hydraopt.model.texts import Batch, Encoded, batches_by_tokens, collate

_LEAST_SAVED: Final = 0.1
"""Smallest share of tokens that sharing must save; below it, masks cost what sharing saves."""
_ROW: Final = 256
"""Usual maximum of a row's tokens: repeated beginnings are rare, and attention is cheap."""
_LONGEST_ROW: Final = 2048
"""Maximum number of tokens in a row of several texts; a mask has the square of this number of
entries."""
_ASKED: Final = 2
"""Weight of a target's token in a row's size, because logits over a vocabulary take memory."""
_ALIKE: Final = 1e-3
_ROUNDINGS: Final = 8
"""Largest difference between states of a text in a trie and of the text alone, relative to the
largest state, is _ALIKE; at lower precision, this number of floating-point steps."""
_WINDOWS: Final = ("sliding_window", "attention_chunk_size", "attention_window_size")


def batches_of(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Batch]]:
    """Return all texts as (indices, their batch).

    A batch has about BATCH_TOKENS padded tokens, or one longer text. Each text needs a token before
    its target. The layout depends only on the texts and the model, so all sets of factors get the
    same batches.
    """
    window = _window_of(model)
    fits = [i for i, text in enumerate(texts) if len(text) <= window]
    rows = _rows_of([texts[i] for i in fits])
    if not _pays(model, [texts[i] for i in fits], rows):
        fits, rows = [], []
    alone = sorted(set(range(len(texts))) - set(fits))
    made = []
    for chunk in batches_by_tokens([len(texts[i]) for i in alone], BATCH_TOKENS):
        which = [alone[k] for k in chunk]
        made.append((which, collate([texts[i] for i in which])))
    shared = [[fits[k] for k in row] for row in rows]
    tries = [_trie_of([texts[i] for i in row]) for row in shared]
    for chunk in batches_by_tokens([len(trie[0]) for trie in tries], BATCH_TOKENS):
        which = [i for k in chunk for i in shared[k]]
        made.append((which, _shared_batch([tries[k] for k in chunk], [texts[i] for i in which])))
    return made


def batch_of_each(model: Any, groups: Sequence[Sequence[Encoded]]) -> list[Batch]:
    """Return each group as one batch, of any length; targets may be in another order.

    Whether to share beginnings is decided once for all groups.
    """
    every = [text for group in groups for text in group]
    fine = max(map(len, every), default=0) <= _window_of(model)
    if not fine or not _pays(model, every, _rows_of(every)):
        return [collate(group) for group in groups]
    made = []
    for group in groups:
        rows = [[group[i] for i in row] for row in _rows_of(group)]
        made.append(_shared_batch(list(map(_trie_of, rows)), list(itertools.chain(*rows))))
    return made


_Trie = tuple[list[int], list[int], list[list[int]]]
"""Several texts as one: the token of each node; its parent, -1 for none, which comes before its
children; and for each text the nodes from which the tokens of its target are predicted."""


def _trie_of(texts: Sequence[Encoded]) -> _Trie:
    tokens: list[int] = []
    parents: list[int] = []
    asked: list[list[int]] = []
    known: dict[tuple[int, int], int] = {}
    for text in texts:
        node, path = -1, []
        for token in (text.prompt + text.target)[:-1]:
            place = (node, token)
            if place not in known:
                known[place] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known[place]
            path.append(node)
        asked.append(path[len(text.prompt) - 1 :])
    return tokens, parents, asked


def _rows_of(texts: Sequence[Encoded]) -> list[list[int]]:
    """Return the indices of all texts, in rows of a limited size whose texts begin alike.

    A text that is longer than the limit of a shared row has a row of its own.
    """
    whole = [(text.prompt + text.target)[:-1] for text in texts]
    most = min(max(_ROW, 2 * max(map(len, whole), default=0)), _LONGEST_ROW)
    rows: list[list[int]] = []
    nodes = targets = 0
    before: tuple[int, ...] = ()
    for i in sorted(range(len(texts)), key=lambda i: whole[i]):  # what begins alike is neighbours
        pairs = zip(before, whole[i], strict=False)
        new = len(whole[i]) - sum(1 for _ in itertools.takewhile(lambda x: x[0] == x[1], pairs))
        asked = _ASKED * len(texts[i].target)
        if not rows or max(nodes + new, targets + asked) > most:
            rows.append([])
            nodes, targets, new = 0, 0, len(whole[i])
        rows[-1].append(i)
        nodes, targets, before = nodes + new, targets + asked, whole[i]
    return rows


def _shared_batch(tries: Sequence[_Trie], texts: Sequence[Encoded]) -> Batch:
    """Return the batch of tries, a row each, whose texts are given in the same order."""
    length = max(len(tokens) for tokens, _, _ in tries)
    ids = torch.zeros(len(tries), length, dtype=torch.long)
    parents = torch.full_like(ids, -1)
    where: list[int] = []
    for row, (tokens, above, asked) in enumerate(tries):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        parents[row, : len(tokens)] = torch.tensor(above)
        where += [row * length + node for nodes in asked for node in nodes]
    labels = [token for text in texts for token in text.target]
    numbers = [k for k, text in enumerate(texts) for _ in text.target]
    one_text = all(_is_one_text(trie) for trie in tries)
    which, wanted, texts_of = (torch.tensor(x) for x in (where, labels, numbers))
    return Batch(ids, which, wanted, texts_of, None if one_text else parents)


def _is_one_text(trie: _Trie) -> bool:
    """Return whether no mask is needed, because each token attends to all tokens before it."""
    return trie[1] == list(range(-1, len(trie[1]) - 1))


def _window_of(model: Any) -> float:
    """Return the tokens of the narrowest attention window, which a custom mask ignores, or inf."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in _WINDOWS)
    return min((x for x in known if x), default=math.inf)


def _pays(model: Any, texts: Sequence[Encoded], rows: Sequence[Sequence[int]]) -> bool:
    """Return whether rows share enough, and the model computes a trie as it computes texts alone.

    Models with their own positions or masks do not support tries; they get each text alone. The
    first two neighbours that differ before their last tokens show it.
    """
    nodes = sum(len(_trie_of([texts[i] for i in row])[0]) for row in rows)
    if nodes >= (1 - _LEAST_SAVED) * sum(len(text) - 1 for text in texts):
        return False
    for pair in _neighbours(texts, rows):
        if not _is_one_text(_trie_of(pair)):
            with products_of("float32"):
                return _reads_alike(model, pair)
    return True


def _neighbours(
    texts: Sequence[Encoded], rows: Sequence[Sequence[int]]
) -> Iterator[tuple[Encoded, Encoded]]:
    for row in rows:
        yield from ((texts[i], texts[k]) for i, k in itertools.pairwise(row))


@torch.inference_mode()
def _reads_alike(model: Any, texts: Sequence[Encoded]) -> bool:
    """Return whether each text has the same states in the trie as alone, up to rounding."""
    batch = _shared_batch([_trie_of(texts)], texts)
    try:
        together = states_of(model, batch.ids, batch.parents)[0]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    for number, text in enumerate(texts):
        alone = states_of(model, collate([text]).ids, None)[0][len(text.prompt) - 1 :]
        step = torch.finfo(alone.dtype).eps
        most = max(_ALIKE, _ROUNDINGS * step) * float(alone.abs().max())
        if float((together[batch.where[batch.row == number]] - alone).abs().max()) > most:
            return False
    return True


_TRIED: Final = 4
"""Number of tokens on which a model's logits are checked."""
_ALIKE_LOGITS: Final = 0.01
"""Largest difference between logits computed in another order, relative to the largest."""


@dataclass(frozen=True)
class NextTokens:
    """Some next tokens, and their rows of the output layer, in float32.

    tokens (k,), weight (k, width), bias (k,) or None.
    """

    tokens: Tensor
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, model: Any, tokens: Tensor) -> NextTokens:
        """Copy the rows."""
        layer = model.get_output_embeddings()
        bias = None if layer.bias is None else layer.bias.detach()[tokens].float()
        return cls(tokens, layer.weight.detach()[tokens].float(), bias)


def logits_of(
    model: Any, hidden: Tensor, placed: Placed, among: NextTokens | None = None
) -> Tensor:
    """Return the float32 logits (N, vocabulary) of hidden states (N, width).

    Only target positions go through the output layer; for small models with a large vocabulary it
    costs as much as all the rest.

    placed: factors on the model. Those of the output layer are applied here, unless they are there
        already.
    among: next tokens to compute, for logits (N, k). Default: the vocabulary. With some, factors
        that are on the output layer already do not count, and those in ``placed`` get no gradients.
    """
    head = of_head(model, placed)
    if among is None:
        with attached(model, head):
            logits: Tensor = model.get_output_embeddings()(hidden).float()
        return as_the_model_does(model, logits)
    inputs = hidden.float()
    logits = F.linear(inputs, among.weight, among.bias)
    for b, a in head.values():
        rows = b.detach()[among.tokens].float()
        logits = logits + F.linear(F.linear(inputs, a.detach().float()), rows)
    return as_the_model_does(model, logits)


def as_the_model_does(model: Any, logits: Tensor) -> Tensor:
    """Apply the architecture's own scaling of logits to the outputs of its output layer.

    Granite divides them, Cohere multiplies them, Gemma 2 caps them.
    """
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0
    factor /= getattr(config, "logits_scaling", None) or 1.0
    if factor != 1.0:
        logits = logits * factor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.inference_mode()
def check_logits(model: Any) -> None:
    """Raise UsageError for a language model whose logits differ from :func:`logits_of`."""
    try:
        embedding = model.get_input_embeddings().weight
        ids = torch.arange(1, 1 + _TRIED, device=embedding.device)[None] % embedding.shape[0]
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        ours = logits_of(model, states_of(model, ids, None)[0], {})
        alike = torch.allclose(ours, own, rtol=0.0, atol=_ALIKE_LOGITS * float(own.abs().max()))
        got = "logits that are not those of its last states and its output layer"
    except (AttributeError, TypeError) as error:
        alike, got = False, str(error)
    if not alike:
        raise UsageError(
            explain(
                "nothing can be measured with this base model",
                file=getattr(model.config, "_name_or_path", None) or None,
                got=f"{type(model).__name__}: {got}",
                expected="a decoder with one output layer over its last hidden states",
                do="Merge without --base and --prompts",
            )
        )


@contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """Give the output layer its input in one piece.

    transformers hands it a slice of the prompt's hidden states; for a slice, torch's CPU product
    may copy the weight once for every row of the batch: gigabytes.
    """

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].contiguous(), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


_TOKENS: Final = 256
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""


@torch.inference_mode()
def likelihoods(
    model: Any,
    texts: Sequence[Encoded],
    placed: Placed,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Return log P(target | prompt) of each text in nats, (texts,).

    placed: the factors on the model. progress: called with the number of batches done and of all
        batches.

    The same texts give the same numbers for the same factors.
    """
    sums, batches = np.zeros(len(texts)), batches_of(model, texts)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        with attached(model, placed):
            hidden = hidden_states(model, batch)
        rows = np.array(chunk)[batch.row.cpu().numpy()]
        for start in range(0, len(hidden), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = logits_of(model, hidden[some], placed)
            logs = logits.gather(1, batch.labels[some, None])[:, 0] - logits.logsumexp(-1)
            np.add.at(sums, rows[some], logs.double().cpu().numpy())
    return sums
