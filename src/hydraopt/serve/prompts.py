"""Prompts as tokens, in time that the limit of tokens bounds."""

from __future__ import annotations

from typing import Any, Final

from hydraopt.errors import HydraoptError, explain

__all__ = ["LongPromptError", "PromptReader"]

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
