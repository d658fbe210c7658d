"""Replies in OpenAI's JSON: models, answers in one piece or in chunks, and refusals."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from hydraopt.serve.jobs import GenerationJob, Piece

__all__ = ["ApiError", "Reply", "event", "model_list", "model_of", "usage_of"]


class ApiError(Exception):
    """Refusal in OpenAI's shape."""

    def __init__(self, status: int, text: str, code: str, param: str | None = None) -> None:
        super().__init__(text)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> dict[str, Any]:
        """Body of the response."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        details = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": details}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        # Whoever waits has an answer of many steps before him, or bundles to be loaded.
        return {"Retry-After": "1"} if self.code in ("queue_full", "bundle_unreadable") else {}


def model_of(name: str, created: int, parent: str | None) -> dict[str, Any]:
    """Return the description of a model. parent: the base model of a task, otherwise None."""
    model = {"id": name, "created": created, "object": "model", "owned_by": "hydraopt"}
    return model if parent is None else {**model, "parent": parent}


def model_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the list of the models that are served."""
    return {"data": models, "object": "list"}


@dataclass(frozen=True)
class Reply:
    """Fields that all chunks of a reply share. chat: whether it is a chat, not a completion."""

    chat: bool
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(self, text: str, reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        """Return the reply in one piece."""
        content = {"message": {"role": "assistant", "content": text}}
        choice = _choice(reason, content if self.chat else {"text": text})
        return {**self._body("", [choice]), "usage": usage}

    def chunk(self, text: str | None, reason: str | None) -> dict[str, Any]:
        """Return a piece of the reply; a text of None marks its beginning."""
        if not self.chat:
            choice = _choice(reason, {"text": text or ""})
        elif text is None:
            choice = _choice(reason, {"delta": {"role": "assistant", "content": ""}})
        else:
            choice = _choice(reason, {"delta": {"content": text} if text else {}})
        return self._body(".chunk", [choice])

    def last_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk after all text, which has the usage."""
        return {**self._body(".chunk", []), "usage": usage}

    def _body(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _choice(reason: str | None, content: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "finish_reason": reason, "logprobs": None, **content}


def usage_of(job: GenerationJob, last: Piece) -> dict[str, int]:
    """Return the numbers of tokens read and written."""
    read, written = len(job.prompt), last.tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def event(data: dict[str, Any] | str) -> str:
    """Format a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"
