"""Requests and replies in OpenAI's format; any other field is refused by name.

A field that is not supported may be present with the value that asks for nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hydraopt.errors import HydraoptError, explain
from hydraopt.serve.jobs import GenerationJob, Piece

# Fields of the API that ask for what is not done here, and the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "store": (None, False),
}
# Notes about the request that change nothing in the answer.
_NOTES = ("user", "metadata", "safety_identifier")

_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StreamOptions(_Strict):
    include_usage: bool = False


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str | list[_TextPart]

    @property
    def text(self) -> str:
        pieces = self.content
        return pieces if isinstance(pieces, str) else "".join(piece.text for piece in pieces)


class BaseRequest(_Strict):
    """Fields that both kinds of requests share.

    model: name of a task or of the base.
    """

    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | list[_Stop] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, values in _NEUTRAL.items():
            if name in data and not any(_same(data[name], x) for x in values):
                raise ValueError(f"{name} is not supported by this server")
        return {key: x for key, x in data.items() if key not in _NEUTRAL and key not in _NOTES}

    @field_validator("stream_options")
    @classmethod
    def _with_a_stream(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and not info.data.get("stream"):
            raise ValueError("stream_options is only allowed when stream is true")
        return value

    @field_validator("stop")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError("at most 4 stop texts")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(BaseRequest):
    """POST /v1/completions. prompt: one text, or one prompt's token ids."""

    prompt: str | list[str] | list[int]


class ChatRequest(BaseRequest):
    """POST /v1/chat/completions."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


def _same(value: Any, neutral: Any) -> bool:
    """Return True if the values are equal; JSON's true does not equal a number."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


_USUAL: Final = 8
"""Average characters per token that hardly any text exceeds."""
_STEP: Final = 4


class LongPromptError(HydraoptError):
    """Error for a prompt with more tokens than allowed."""


class PromptReader:
    """Callable from several threads at a time.

    A text has at least its characters divided by those of the longest token as tokens, so a longer
    one is refused unread. Of others the first part is tokenised before the whole: most texts that
    are too long are so from there on.

    most: tokens of a prompt.
    """

    def __init__(self, tokenizer: Any, most: int) -> None:
        self._tokenizer, self._most = tokenizer, most
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        # The first call sets padding and truncation, which no other thread may do meanwhile.
        self._count("a")

    def tokens(self, text: str, special: bool) -> tuple[int, ...]:
        """Return the tokens of a text, which may still be too many.

        special: True to include the tokens that a tokenizer adds.

        Raises LongPromptError for a text that was not tokenised to its end.
        """
        if len(text) > self._most * self._longest:
            raise self._too_long(f"{len(text)} characters")
        size = self._most * _USUAL
        while size < len(text):
            # Where a text is cut, the tokens of a whole one may differ for the length of a token.
            if (count := self._count(text[:size])) > self._most + self._longest:
                raise self._too_long(f"over {count - self._longest} tokens")
            size *= _STEP
        return tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _too_long(self, got: str) -> LongPromptError:
        expected = f"at most {self._most} tokens"
        return LongPromptError(explain("the prompt is too long", got=got, expected=expected))


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
