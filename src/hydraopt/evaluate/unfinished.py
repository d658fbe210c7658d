"""What an evaluation has measured so far: one that was stopped goes on from there.

It is kept until the evaluation is done, under ``$HYDRAOPT_CACHE/eval``, by all that was asked for.
So nothing is ever taken from an evaluation that came to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import Memory, cache_folder, key_of

__all__ = ["Unfinished", "are_answers"]

_METHOD: Final = "1"
"""Changes when the same request would give other numbers."""


class Unfinished:
    """JSON values of one evaluation, or of one of its tasks. Nothing is raised where they cannot be
    kept: then there are none when it is asked again."""

    def __init__(self, memory: Memory, scope: Sequence[str] = ()) -> None:
        self._memory, self._scope = memory, tuple(scope)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Unfinished:
        """asked: everything that results depend on."""
        key = key_of([_METHOD, json.dumps(asked, sort_keys=True)])
        return cls(Memory(cache_folder("eval") / key))

    def task(self, name: str) -> Unfinished:
        """Those of a task."""
        return Unfinished(self._memory, (*self._scope, name))

    def get(self, what: str, items: Sequence[Encoded] = ()) -> Any:
        """What is known of some rows, or of all of them; None if nothing is."""
        return self._memory.get(self._key(what, items))

    def put(self, what: str, value: Any, items: Sequence[Encoded] = ()) -> None:
        """Keep it."""
        self._memory.put(self._key(what, items), value)

    def forget(self) -> None:
        """All of it: the evaluation is done."""
        self._memory.forget()

    def _key(self, what: str, items: Sequence[Encoded]) -> str:
        rows = (f"{item.prompt} {item.target}" for item in items)
        return key_of([*self._scope, what, *rows])


def are_answers(value: Any, rows: int) -> bool:
    """Whether a value is answers to so many rows, in tokens; files may be broken."""
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(isinstance(x, list) and all(type(token) is int for token in x) for x in value)
    )
