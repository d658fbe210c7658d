"""Plain requests to a server, and those that it has to refuse."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["BAD", "Bad", "post", "problem_of"]

_TIMEOUT = 300
_LARGE = (1 << 20) + (1 << 16)
"""More than a body may have, by little: the server refuses before it has read much more."""


@dataclass(frozen=True)
class Bad:
    """A request, what it is answered with, and what the message has to say.

    change: of a request that is right; bytes are the body itself.
    """

    name: str
    change: Mapping[str, Any] | bytes
    status: int
    says: str
    kind: str = "application/json"
    path: str = "/completions"


BAD = (
    Bad("unknown task", {"model": "no-such-task"}, 404, "no model 'no-such-task'"),
    Bad("empty body", b"", 400, "Invalid JSON"),
    Bad("half a body", b'{"model": ', 400, "Invalid JSON"),
    Bad("a list", b"[1]", 400, "Input should be"),
    Bad("no prompt", {"prompt": None}, 400, "prompt"),
    Bad("empty prompt", {"prompt": ""}, 400, "the prompt is empty"),
    Bad("too many tokens to write", {"max_tokens": 100_000}, 413, "max_tokens asks for 100000"),
    Bad("too many tokens to read", {"prompt": [5] * 5000}, 413, "the prompt has 5000 tokens"),
    Bad("no tokens to write", {"max_tokens": 0}, 400, "greater than or equal to 1"),
    Bad("a word for a number", {"temperature": "hot"}, 400, "valid number"),
    Bad("a number for a name", {"model": 5}, 400, "valid string"),
    Bad("tokens out of range", {"prompt": [-1]}, 400, "token ids are from 0"),
    Bad("an unknown field", {"colour": "red"}, 400, "Extra inputs are not permitted"),
    Bad("what is not supported", {"n": 2}, 400, "n is not supported"),
    Bad("an oversized body", {"prompt": "y" * _LARGE}, 413, "the body is larger than"),
    Bad("another type of body", {}, 415, "must be application/json", "text/plain"),
    Bad("another path", {}, 404, "no POST /v1/embeddings here", path="/embeddings"),
)


def post(
    address: str, body: Any, *, path: str = "/completions", kind: str = "application/json"
) -> tuple[int, Any]:
    """Return (status, JSON) of a POST on a connection of its own; (0, what happened) if it failed.

    body: JSON unless it is bytes.
    """
    url = urlsplit(address)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=_TIMEOUT)
    try:
        connection.request("POST", url.path + path, data, {"content-type": kind})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, repr(error)
    finally:
        connection.close()


def problem_of(address: str, bad: Bad, *, model: str) -> str | None:
    """Return what is wrong with the answer to a bad request; None if it is refused rightly."""
    asked = {"model": model, "prompt": "x", "max_tokens": 1}
    body = bad.change if isinstance(bad.change, bytes) else {**asked, **bad.change}
    status, reply = post(address, body, path=bad.path, kind=bad.kind)
    if status != bad.status:
        return f"status {status} instead of {bad.status}: {str(reply)[:200]}"
    error = reply.get("error", {}) if isinstance(reply, dict) else {}
    if set(error) != {"message", "type", "param", "code"}:
        return f"not an error in OpenAI's shape: {str(reply)[:200]}"
    if bad.says not in error["message"]:
        return f"the message does not say {bad.says!r}: {error['message'][:200]}"
    return None
