"""Store of what was measured of one task, from which an interrupted evaluation continues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import JsonCache, key_of

__all__ = ["Kept"]


class Kept:
    """JSON values of one task, by the rows that they are of."""

    def __init__(self, folder: Path) -> None:
        self._memory = JsonCache(folder, in_process=False)

    def get(self, what: str, items: Sequence[Encoded] = ()) -> Any:
        """Return the stored value for some rows, or for all of them; None if there is none."""
        return self._memory.get(_key(what, items))

    def put(self, what: str, value: Any, items: Sequence[Encoded] = ()) -> None:
        """Keep it, if there is room."""
        self._memory.put(_key(what, items), value)

    def forget(self) -> None:
        """Delete all values."""
        self._memory.forget()


def _key(what: str, items: Sequence[Encoded]) -> str:
    return key_of([what, *(f"{item.prompt} {item.target}" for item in items)])
