"""Sensitivity of an adapter's own answers to noise in each of its modules.

The adapted model reads a few texts; for every module the inputs x and the gradients g of the
answers' log-probability in its outputs are stored. An error E of the module's dW changes a token's
log-probability by g^T E x to first order, and the mean of the square is the effect of E on the KL
divergence (the diagonal of the Fisher information). For noise of unit size on one side of dW its
expectation has a closed form: see :func:`sensitivities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens, collate
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import (
    BATCH_TOKENS,
    TaskFactors,
    attached,
    hidden_states,
    misfit,
    of_head,
    place,
)
from hydraopt.basemodel.writing import WRITE_TOKENS, Sampling, generate
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.svd import thin

__all__ = ["Activations", "look", "looks", "self_written", "sensitivities"]

_WRITTEN: Final = 32
"""Tokens of a text that the model writes."""


@dataclass(frozen=True)
class Activations:
    """Inputs and gradients of each module on some texts.

    x (N, n): inputs.
    g (N, m): gradients of the answer's log-probability in the module's outputs.
    text (N,): index of each token's text. The output layer has tokens of answers only.
    """

    x: Mapping[str, Tensor]
    g: Mapping[str, Tensor]
    text: Tensor


@contextmanager
def _watched(model: nn.Module, paths: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], ...]]:
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook(path: str) -> Any:
        def see(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[path], outputs[path] = args[0].detach(), output
            if output.requires_grad:
                output.retain_grad()

        return see

    handles = [model.get_submodule(p).register_forward_hook(hook(p)) for p in paths]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def looks(
    model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors
) -> Iterator[Activations]:
    """Yield the inputs and gradients of modules, for a few texts at a time.

    A batch has BATCH_TOKENS padded tokens, or one longer text, because all activations of the model
    are in memory at once.
    """
    for chunk in batches_by_tokens([len(text) for text in texts], BATCH_TOKENS):
        yield look(model, [texts[i] for i in chunk], factors)


def look(model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors) -> Activations:
    """Return the inputs and gradients of every module of the adapted model, without padding.

    Raises AlignmentError for a module that receives nothing, or only some of the tokens, such as an
    expert: a number for it would not hold for other texts.
    """
    placed = place(model, factors)
    batch = collate(list(texts))
    lengths = [len(text) - 1 for text in texts]
    real = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        real[row, :length] = True
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    # One leaf that wants a gradient, so that every later output has one.
    handle = embeddings.register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    try:
        with attached(model, placed), _watched(model, list(factors)) as (inputs, outputs):
            logits = logits_of(model, hidden_states(model, batch), {})  # all factors are there
            chance = logits.log_softmax(-1).gather(1, batch.labels[:, None])
            torch.autograd.backward(chance.sum())
        head = of_head(model, factors)
        grads = {path: _gradient(value) for path, value in outputs.items()}
        x, g = (
            {path: y[path] if path in head else _real(model, path, y, real) for path in factors}
            for y in (inputs, grads)
        )
    finally:
        handle.remove()
    which = torch.arange(len(texts))[:, None].expand(batch.ids.shape)[real]
    return Activations(x, g, which)


def _gradient(output: Tensor) -> Tensor:
    """Return the gradient of an output; zero where no answer depends on it."""
    return torch.zeros_like(output) if output.grad is None else output.grad


def _real(model: nn.Module, path: str, values: Mapping[str, Tensor], real: Tensor) -> Tensor:
    """Return a module's values at real tokens, (N, n).

    real: (rows, length). The model may give a module rows and tokens as one dimension.
    """
    seen = values.get(path)
    if seen is None or seen.shape[:-1] not in (real.shape, (real.numel(),)):
        raise misfit(
            model,
            f"does not give module {path} every token of a text, so what matters cannot be seen",
            "nothing" if seen is None else tuple(seen.shape),
            f"{real.shape[0]} rows of {real.shape[1]} tokens",
            "Merge without --base",
        )
    return seen.reshape(-1, seen.shape[-1])[real.flatten()]


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
    items, sets = [Encoded((start,), ())] * count, [place(model, factors)] * count
    choose = Sampling(seed, model.get_output_embeddings().weight.shape[0])
    texts = generate(model, tokenizer, items, sets, _WRITTEN, WRITE_TOKENS, (), choose)
    return [Encoded((start,), answer) for answer in texts]


def sensitivities(seen: Iterable[Activations], factors: TaskFactors) -> dict[str, float]:
    """Return by module path the effect of a unit of squared Frobenius error, for hydraopt.merge.

    With the thin SVD dW = U diag(s) V^T: noise N on the input side, E = U diag(s) N^T, gives
    E[(g^T E x)^2] = |diag(s) U^T g|^2 |x|^2 for N of unit variance, and |E|^2 = n |s|^2; the output
    side likewise. The value is the sum of both ratios, mean over the tokens of all that was seen.
    """
    thinned = {p: thin(np.asarray(b, float), np.asarray(a, float)) for p, (b, a) in factors.items()}
    sums, tokens = dict.fromkeys(factors, 0.0), 0
    for part in seen:
        tokens += len(part.text)
        for path, t in thinned.items():
            x, g = part.x[path].double().numpy(), part.g[path].double().numpy()
            out = np.square(g @ (t.U * t.s)).sum(1) * np.square(x).sum(1) / x.shape[1]
            into = np.square(x @ (t.V * t.s)).sum(1) * np.square(g).sum(1) / g.shape[1]
            sums[path] += float((out + into).sum())
    values = {p: sums[p] / max(tokens, 1) / max(t.energy, 1e-300) for p, t in thinned.items()}
    # A module without any effect still has to be a number above zero.
    least = max(max(values.values(), default=0.0) * 1e-6, 1e-300)
    return {path: max(value, least) for path, value in values.items()}
