"""Rows of a server's batch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from hydraopt.serve.jobs import Answer, Piece, Reason
from hydraopt.serve.sampling import Sampler
from hydraopt.serve.text import Decoder, StopWatch

__all__ = ["BatchRow"]


@dataclass(eq=False)
class BatchRow:
    """Answer under way. tokens: written so far; last: the latest; reason: why it ended."""

    answer: Answer
    sampler: Sampler
    decoder: Decoder
    watch: StopWatch
    tokens: int = 0
    last: int = 0
    reason: Reason | None = None

    def take(self, logits: Tensor, ends: Collection[int]) -> None:
        """Draw a token of the logits (vocabulary) and give the reader the text.

        ends: tokens that end an answer.
        """
        self.last = self.sampler(logits)
        self.tokens += 1
        ended = self.last in ends
        text = self.watch.add("" if ended else self.decoder.add(self.last))
        if not self.watch.stopped and (ended or self.tokens >= self.answer.job.max_tokens):
            text += self.watch.add(self.decoder.end())
            text += "" if self.watch.stopped else self.watch.end()
            self.reason = "stop" if ended else "length"
        if self.watch.stopped:
            self.reason = "stop"
        if text or self.reason is not None:
            self.answer.deliver(Piece(text, self.tokens, self.reason))
