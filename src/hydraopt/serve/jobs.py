"""Requests to the engine, its answers, and its refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hydraopt.errors import HydraoptError

Reason = Literal["stop", "length", "time", "closing", "error", "cancelled"]


class QueueFullError(HydraoptError):
    """Refusal because the queue of waiting requests is full."""


class ClosedError(HydraoptError):
    """Error of an engine that takes no more requests."""


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    rows: maximum number of answers generated at a time.
    queue: maximum number of requests that wait for a row.
    prompt_tokens, answer_tokens: maximum per request.
    seconds: maximum time from a request's arrival to its end.
    body_bytes: maximum size of its HTTP body.
    """

    rows: int = 16
    queue: int = 256
    prompt_tokens: int = 2048
    answer_tokens: int = 1024
    seconds: float = 120.0
    body_bytes: int = 1 << 20


@dataclass(frozen=True)
class GenerationJob:
    """Prompt to continue.

    task: None is the base model.  temperature: 0 takes the likeliest token.  top_p: the smallest
    set of tokens of that probability is drawn from.  stop: texts that end the answer, which they
    are not part of.
    """

    task: str | None
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that was added, and at the end why it ended. tokens: of the answer so far."""

    text: str
    tokens: int
    reason: Reason | None = None
    error: str | None = None


@dataclass
class Answer:
    """Job under way. ``deliver`` is called with each piece, in the engine's thread.

    attached: what has its task.
    """

    job: GenerationJob
    deliver: Callable[[Piece], None]
    deadline: float
    attached: Any = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Cancel the answer, which no one reads any more; it ends at the next step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()
