"""Format of requests; any other field of OpenAI's API is refused by name.

A field that is not supported may be present with the value that asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = ["BaseRequest", "ChatRequest", "CompletionRequest"]

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
        for field, values in _NEUTRAL.items():
            if field in data and not any(_same(data[field], x) for x in values):
                raise ValueError(f"{field} is not supported by this server")
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
