"""Sample the next token of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from hydraopt.errors import NumericalError, explain
from hydraopt.serve.jobs import GenerationJob

__all__ = ["Sampler"]


class Sampler:
    """Draws the tokens of one answer; with a seed, from a stream of random numbers of its own."""

    def __init__(self, job: GenerationJob) -> None:
        self._job = job
        self._generator = torch.Generator()
        if job.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(job.seed)

    def __call__(self, logits: Tensor) -> int:
        """Sample a token from logits (vocabulary,).

        At a temperature of 0 the first of the largest logits is chosen.

        Raises NumericalError if the model did not give numbers.
        """
        largest = logits.max()
        if not torch.isfinite(largest):
            raise NumericalError(
                explain("the model's logits are no numbers", do="Serve in a wider --dtype")
            )
        if self._job.temperature == 0:
            return int(logits.argmax())
        # From the largest down, in float64: the smallest temperature leaves that one at 0.
        scaled = (logits - largest).double().cpu() / self._job.temperature
        if self._job.top_p >= 1:
            chosen = torch.multinomial(scaled.softmax(-1), 1, generator=self._generator)
            return int(chosen)
        likely, order = scaled.softmax(-1).sort(descending=True)
        # A token stays if those before it do not reach top_p: the first always does.
        likely = likely.masked_fill(likely.cumsum(-1) - likely >= self._job.top_p, 0)
        # A top_p of 0 means the likeliest alone.
        likely[0] = likely[0].clamp(min=torch.finfo(likely.dtype).tiny)
        return int(order[torch.multinomial(likely, 1, generator=self._generator)])
