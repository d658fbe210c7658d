"""Reload the bundles of a running server from their files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from hydraopt.errors import HydraoptError, UsageError, explain
from hydraopt.runtime.attached import Attached, attach
from hydraopt.runtime.bundles import named_bundles
from hydraopt.serve.engine import ModelEngine
from hydraopt.serve.jobs import ClosedError

__all__ = ["Reload", "ReloadError", "check_names"]


class ReloadError(HydraoptError):
    """Error of new files that were refused; the old ones stay in service. Names no folder."""


def check_names(base_name: str, tasks: Sequence[str]) -> None:
    """Raise UsageError if a task has the base's name."""
    if base_name in tasks:
        raise UsageError(
            explain(
                "a task has the name of the base model",
                got=base_name,
                do="Give the base another name with --name",
            )
        )


class Reload:
    """Call it, from any thread, to serve what the files hold now.

    Requests that came before are answered with the old tasks, those that come after with the new.
    """

    def __init__(
        self, engine: ModelEngine, base_name: str, bundles: Sequence[str], cache_bytes: int | None
    ) -> None:
        self._engine, self._base_name = engine, base_name
        self._bundles, self._cache_bytes = tuple(bundles), cache_bytes
        self._one = threading.Lock()

    def __call__(self) -> tuple[str, ...]:
        """Reload, and return the tasks served now.

        Raises ReloadError; ClosedError at the server's end.
        """
        with self._one:
            try:
                opened = named_bundles(list(self._bundles))
                self._engine.replace(lambda model: self._attached(model, opened))
            except (HydraoptError, OSError, MemoryError, RuntimeError) as error:
                # RuntimeError: both attachments are held, for which a GPU may have no memory.
                if isinstance(error, ClosedError):
                    raise
                raise ReloadError(
                    explain(
                        "the bundles were not loaded again, and those from before stay in service",
                        got=self._without_folders(str(error).rstrip(".")),
                    )
                ) from error
            return self._engine.tasks

    def _attached(self, model: object, opened: object) -> Attached:
        fresh = attach(model, opened, cache_bytes=self._cache_bytes)  # type: ignore[arg-type]
        try:
            check_names(self._base_name, fresh.tasks)
        except UsageError:
            fresh.detach()
            raise
        return fresh

    def _without_folders(self, text: str) -> str:
        """Return the text without local folders, which clients must not learn."""
        for path in map(Path, self._bundles):
            for name in (str(path), str(path.absolute()), os.path.realpath(path)):
                text = text.replace(name, path.name)
        return text
