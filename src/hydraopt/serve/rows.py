"""Rows of a server's batch."""

from __future__ import annotations

from dataclasses import dataclass

from hydraopt.serve.jobs import Answer, Reason
from hydraopt.serve.sampling import Sampler
from hydraopt.serve.text import Decoder, StopWatch

__all__ = ["BatchRow"]


@dataclass(eq=False)
class BatchRow:
    """An answer under way. tokens: given so far; last: the latest of them; reason: why it ended."""

    answer: Answer
    sampler: Sampler
    decoder: Decoder
    watch: StopWatch
    tokens: int = 0
    last: int = 0
    reason: Reason | None = None
