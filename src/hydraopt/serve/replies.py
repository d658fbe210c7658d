"""Format of replies, which hydraopt.jsonvalues.to_json converts to OpenAI's JSON."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hydraopt.jsonvalues import to_json
from hydraopt.serve.jobs import GenerationJob, Piece

__all__ = [
    "ApiError",
    "Model",
    "ModelList",
    "Reply",
    "ReplyBody",
    "ReplyMessage",
    "Usage",
    "chunk",
    "event",
    "usage_of",
    "whole",
]


@dataclass(frozen=True)
class ErrorDetails:
    """Description of a refusal."""

    message: str
    type: str
    param: str | None
    code: str


@dataclass(frozen=True)
class ErrorBody:
    """Body of a refusal."""

    error: ErrorDetails


class ApiError(Exception):
    """Refusal in OpenAI's shape."""

    def __init__(self, status: int, text: str, code: str, param: str | None = None) -> None:
        super().__init__(text)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> ErrorBody:
        """Body of the response."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return ErrorBody(ErrorDetails(str(self), kind, self.param, self.code))

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        # Whoever waits has an answer of many steps before him, or bundles to be loaded.
        return {"Retry-After": "1"} if self.code in ("queue_full", "bundle_unreadable") else {}


@dataclass(frozen=True)
class Model:
    """Model that is served. parent: the base model of a task."""

    id: str
    created: int
    parent: str | None = None
    object: str = "model"
    owned_by: str = "hydraopt"


@dataclass(frozen=True)
class ModelList:
    """Models that are served."""

    data: Sequence[Model]
    object: str = "list"


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class ReplyMessage:
    """Message of a chat, or a piece of one."""

    role: str | None = None
    content: str | None = None


@dataclass(frozen=True)
class ReplyChoice:
    """Answer, or a piece of one: text of a completion, message or delta of a chat."""

    index: int
    finish_reason: str | None
    logprobs: None
    text: str | None = None
    message: ReplyMessage | None = None
    delta: ReplyMessage | None = None


@dataclass(frozen=True)
class ReplyBody:
    """Body of a reply, or of a chunk of one."""

    id: str
    object: str
    created: int
    model: str
    choices: tuple[ReplyChoice, ...]
    usage: Usage | None = None


@dataclass(frozen=True)
class Reply:
    """Reply: its kind, and the fields that all of its chunks share."""

    kind: Literal["chat", "completion"]
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def body(self, streamed: bool, *choices: ReplyChoice, usage: Usage | None = None) -> ReplyBody:
        """Return the body with these choices. streamed: whether it is a chunk."""
        chat = self.kind == "chat"
        name = "chat.completion" if chat else "text_completion"
        return ReplyBody(
            f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            f"{name}.chunk" if chat and streamed else name,
            self.created,
            self.model,
            choices,
            usage,
        )


def usage_of(job: GenerationJob, last: Piece) -> Usage:
    """Return the numbers of tokens read and written."""
    read, written = len(job.prompt), last.tokens
    return Usage(read, written, read + written)


def whole(reply: Reply, text: str, reason: str | None, usage: Usage) -> ReplyBody:
    """Return a reply in one piece."""
    if reply.kind == "chat":
        choice = ReplyChoice(0, reason, None, message=ReplyMessage("assistant", text))
    else:
        choice = ReplyChoice(0, reason, None, text)
    return reply.body(False, choice, usage=usage)


def chunk(reply: Reply, text: str | None, reason: str | None) -> ReplyBody:
    """Return a piece of a reply; a text of None marks its beginning."""
    if reply.kind == "completion":
        choice = ReplyChoice(0, reason, None, text or "")
    elif text is None:
        choice = ReplyChoice(0, reason, None, delta=ReplyMessage("assistant", ""))
    else:
        choice = ReplyChoice(0, reason, None, delta=ReplyMessage(content=text or None))
    return reply.body(True, choice)


def event(data: ReplyBody | ErrorBody | str) -> str:
    """Format a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(to_json(data), ensure_ascii=False)
    return f"data: {text}\n\n"
