"""Commits to repositories of the Hugging Face hub; hydraopt.files.objects reads their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydraopt.errors import NotThereError
from hydraopt.extras import require
from hydraopt.files.objects import naming
from hydraopt.files.stores import patiently
from hydraopt.files.url import Url

__all__ = ["Repository"]


class Repository:
    """Model repository at hf://OWNER/NAME.

    token: access token; None for the one that huggingface_hub finds, as in HF_TOKEN.

    Methods raise RemoteError. Raises MissingExtraError without huggingface_hub.
    """

    def __init__(self, url: Url, token: str | None) -> None:
        require("huggingface_hub", file=url)
        from huggingface_hub import HfApi

        self.url = url
        self._name = "/".join(url.parts)
        self._token = token
        self._api = HfApi(token=token)

    def make(self, private: bool | None) -> None:
        """Make the repository unless it is there; None for ``private``: as the account has it."""

        def act() -> None:
            with naming(self.url):
                self._api.create_repo(self._name, private=private, exist_ok=True)

        patiently(act, self.url)

    def start_of(self, name: str, size: int) -> bytes | None:
        """Return the first bytes of a file, at most ``size``; None if there is no such file."""
        from huggingface_hub import HfFileSystem

        def act() -> bytes:
            system = HfFileSystem(token=self._token)
            system.invalidate_cache()
            with naming(self.url / name):
                return bytes(system.cat_file(f"{self._name}/{name}", 0, size, cache_type="none"))

        try:
            return patiently(act, self.url / name)
        except NotThereError:
            return None

    def commit(self, files: Mapping[str, Path | bytes], stale: Iterable[str], message: str) -> str:
        """Write files as one commit and return its hash.

        stale: suffixes of files that the commit removes if they are there and not written.
        """
        return patiently(partial(self._commit, files, tuple(stale), message), self.url)

    def _commit(
        self, files: Mapping[str, Path | bytes], stale: tuple[str, ...], message: str
    ) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with naming(self.url):
            there = self._api.list_repo_files(self._name) if stale else []
            gone = [x for x in there if x.endswith(stale) and x not in files]
            operations: list[Any] = [
                *(CommitOperationAdd(name, content) for name, content in files.items()),
                *(CommitOperationDelete(name) for name in gone),
            ]
            return str(self._api.create_commit(self._name, operations, commit_message=message).oid)
