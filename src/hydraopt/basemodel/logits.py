"""Output layer: logits of hidden states, equal to the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.basemodel.model import Placed, attached, of_head, states_of
from hydraopt.errors import UsageError, explain

__all__ = ["NextTokens", "check_logits", "contiguous_head", "logits_of"]

_TRIED: Final = 4
"""Number of tokens on which a model's logits are checked."""
_ALIKE: Final = 0.01
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
        alike = torch.allclose(ours, own, rtol=0.0, atol=_ALIKE * float(own.abs().max()))
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
