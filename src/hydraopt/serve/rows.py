"""Rows of a server's batch: the next token of each, its text, and where to stop."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hydraopt.errors import (
    BundleFormatError,
    ExportError,
    HydraoptError,
    NumericalError,
    RemoteError,
    explain,
)
from hydraopt.serve.jobs import Answer, GenerationJob, Piece, Reason


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


_UNFINISHED = "\ufffd"


class Decoder:
    """Text of one answer, token by token; the pieces add up to the text of all tokens.

    A piece is held back while its last character is unfinished. Each piece is the difference of
    two decodings that start at the same token, because a tokenizer may treat a first token in a
    way of its own.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token: int) -> str:
        """Return the text that this token completes."""
        self._ids.append(token)
        return self._new(False)

    def end(self) -> str:
        """Return the text that was held back."""
        return self._new(True)

    def _new(self, last: bool) -> str:
        before = self._text(self._ids[self._start : self._shown])
        whole = self._text(self._ids[self._start :])
        if len(whole) <= len(before) or (whole.endswith(_UNFINISHED) and not last):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return whole[len(before) :]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class StopWatch:
    """Lets text through up to the first stop text, holding back what may be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Add text, and return what can be shown now."""
        text, self._held = self._held + text, ""
        places = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        keep = max((self._overlap(text, stop) for stop in self._stop), default=0)
        if keep:
            text, self._held = text[:-keep], text[-keep:]
        return text

    def end(self) -> str:
        """Return the text that was held back, which turned out not to be a stop text."""
        text, self._held = self._held, ""
        return text

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of the text with which the stop text begins."""
        longest = min(len(text), len(stop) - 1)
        return next((k for k in range(longest, 0, -1) if text.endswith(stop[:k])), 0)


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
