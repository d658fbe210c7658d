"""Rows of a server's batch: their tokens, and their failures."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from hydraopt.errors import (
    BundleFormatError,
    ExportError,
    HydraoptError,
    NumericalError,
    RemoteError,
)
from hydraopt.serve.jobs import Answer, Piece, Reason
from hydraopt.serve.sampling import Sampler
from hydraopt.serve.text import Decoder, StopWatch

__all__ = ["UNREADABLE", "BatchRow", "fail"]

UNREADABLE = (
    "the task can no longer be read from its bundle as it was; try again, or have the server load "
    "it again (POST /reload)"
)

log = logging.getLogger(__name__)


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


def fail(rows: Sequence[BatchRow], error: Exception, what: str) -> None:
    """End the rows and log the failure and its reason.

    The log has a traceback only for an error that is not hydraopt's own.
    """
    if rows:
        ours = isinstance(error, HydraoptError)
        log.error("%s: %s", what, error, exc_info=None if ours else error)
    for row in rows:
        row.reason = "error"
        row.answer.deliver(Piece("", row.tokens, "error", _told(error)))


def _told(error: Exception) -> str:
    """Return what the client is told; other errors may say where the bundle lies."""
    if isinstance(error, NumericalError):
        return str(error)
    unread = isinstance(error, BundleFormatError | ExportError | RemoteError)
    return UNREADABLE if unread else "the answer could not be computed"
