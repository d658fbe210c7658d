"""Tokens to text as they come, and where to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Decoder", "StopWatch"]

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
