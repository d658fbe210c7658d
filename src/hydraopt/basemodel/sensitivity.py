"""Sensitivity of an adapter's own answers to noise in each of its modules.

The adapted model reads a few texts; for every module the inputs x and the gradients g of the
answers' log-probability in its outputs are stored. An error E of the module's dW changes a token's
log-probability by g^T E x to first order, and the mean of the square is the effect of E on the KL
divergence (the diagonal of the Fisher information). For noise of unit size on one side of dW its
expectation has a closed form: see :func:`sensitivities`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from hydraopt.basemodel.writing import Sampling, generate
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.svd import thin

__all__ = ["activations", "self_written", "sensitivities"]

_WRITTEN: Final = 32
"""Tokens of a text that the model writes."""


def sensitivities(
    model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors
) -> dict[str, float]:
    """Return by module path the effect of a unit of squared Frobenius error, for hydraopt.merge.

    With the thin SVD dW = U diag(s) V^T: noise N on the input side, E = U diag(s) N^T, gives
    E[(g^T E x)^2] = |diag(s) U^T g|^2 |x|^2 for N of unit variance, and |E|^2 = n |s|^2; the output
    side likewise. The value is the sum of both ratios, mean over the tokens of all texts.

    A batch has BATCH_TOKENS padded tokens, or one longer text, because all activations of the model
    are in memory at once.

    Raises AlignmentError for a module that receives nothing, or only some of the tokens, such as an
    expert: a number for it would not hold for other texts.
    """
    thinned = {p: thin(np.asarray(b, float), np.asarray(a, float)) for p, (b, a) in factors.items()}
    sums, tokens = dict.fromkeys(factors, 0.0), sum(len(text) - 1 for text in texts)
    for chunk in batches_by_tokens([len(text) for text in texts], BATCH_TOKENS):
        seen = activations(model, [texts[i] for i in chunk], factors)
        for path, t in thinned.items():
            x, g = (y.double().numpy() for y in seen[path])
            out = np.square(g @ (t.U * t.s)).sum(1) * np.square(x).sum(1) / x.shape[1]
            into = np.square(x @ (t.V * t.s)).sum(1) * np.square(g).sum(1) / g.shape[1]
            sums[path] += float((out + into).sum())
    values = {p: sums[p] / max(tokens, 1) / max(t.energy, 1e-300) for p, t in thinned.items()}
    # A module without any effect still has to be a number above zero.
    least = max(max(values.values(), default=0.0) * 1e-6, 1e-300)
    return {path: max(value, least) for path, value in values.items()}


def activations(
    model: nn.Module, texts: Sequence[Encoded], factors: TaskFactors
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return x (N, n) and g (N, m) of each module of the adapted model, without padding.

    x: inputs. g: gradients of the answers' log-probability in the module's outputs. The output
    layer has tokens of answers only. Raises AlignmentError as :func:`sensitivities`.
    """
    placed, batch, head = place(model, factors), collate(list(texts)), of_head(model, factors)
    real = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        real[row, : len(text) - 1] = True
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str) -> Any:
        def see(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = args[0].detach(), output
            if output.requires_grad:
                output.retain_grad()

        return see

    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    # One leaf that wants a gradient, so that every later output has one.
    handles = [embeddings.register_forward_hook(lambda _m, _a, out: out.requires_grad_())]
    try:
        with attached(model, placed):
            handles += [model.get_submodule(p).register_forward_hook(watch(p)) for p in factors]
            logits = logits_of(model, hidden_states(model, batch), {})  # all factors are there
            chance = logits.log_softmax(-1).gather(1, batch.labels[:, None])
            torch.autograd.backward(chance.sum())
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for path in factors:
        both = seen.get(path)
        fits = both is not None and all(
            path in head or x.shape[:-1] in (real.shape, (real.numel(),)) for x in both
        )
        if both is None or not fits:
            raise misfit(
                model,
                f"does not give module {path} every token of a text, so what matters cannot be "
                "seen",
                "nothing" if both is None else tuple(both[0].shape),
                f"{real.shape[0]} rows of {real.shape[1]} tokens",
                "Merge without --base",
            )
        x, output = both
        # No answer depends on an output without a gradient.
        g = torch.zeros_like(output) if output.grad is None else output.grad
        if path not in head:  # the model may give a module rows and tokens as one dimension
            x, g = (y.reshape(-1, y.shape[-1])[real.flatten()] for y in (x, g))
        found[path] = x, g
    return found


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
    items, placed = [Encoded((start,), ())] * count, place(model, factors)
    choose = Sampling(seed, model.get_output_embeddings().weight.shape[0])
    texts = generate(model, tokenizer, items, placed, _WRITTEN, (), choose)
    return [Encoded((start,), answer) for answer in texts]
