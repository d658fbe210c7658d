"""Format of replies."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from hydraopt.serve.jobs import Job, Piece

__all__ = ["ApiError", "Reply", "chunk", "event", "usage_of", "whole"]


class ApiError(Exception):
    """A refusal in OpenAI's shape."""

    def __init__(self, status: int, text: str, code: str, param: str | None = None) -> None:
        super().__init__(text)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        # Whoever waits has an answer of many steps before him, or bundles to be loaded.
        return {"Retry-After": "1"} if self.code in ("queue_full", "bundle_unreadable") else {}


@dataclass(frozen=True)
class Reply:
    """A reply: its kind, and what is the same in all of its chunks."""

    kind: Literal["chat", "completion"]
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def envelope(self, streamed: bool) -> dict[str, Any]:
        chat = self.kind == "chat"
        name = "chat.completion" if chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            "object": f"{name}.chunk" if chat and streamed else name,
            "created": self.created,
            "model": self.model,
        }


def usage_of(job: Job, last: Piece) -> dict[str, int]:
    """Return the numbers of tokens read and written."""
    read, written = len(job.prompt), last.tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def whole(reply: Reply, text: str, reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
    """Return a reply in one piece."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
    if reply.kind == "chat":
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    return {**reply.envelope(False), "choices": [choice], "usage": usage}


def chunk(reply: Reply, text: str | None, reason: str | None) -> dict[str, Any]:
    """Return a piece of a reply; a text of None marks its beginning."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
    if reply.kind == "completion":
        choice["text"] = text or ""
    elif text is None:
        choice["delta"] = {"role": "assistant", "content": ""}
    else:
        choice["delta"] = {"content": text} if text else {}
    return {**reply.envelope(True), "choices": [choice]}


def event(data: dict[str, Any] | str) -> str:
    """Format a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"
