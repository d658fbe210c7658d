"""Commits to repositories of the Hugging Face hub; hydraopt.files.objects reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydraopt.extras import require
from hydraopt.files.folders import files_in
from hydraopt.files.objects import naming
from hydraopt.files.stores import patiently
from hydraopt.files.url import Url

__all__ = ["commit", "make_repository"]


def make_repository(url: Url, private: bool | None, token: str | None) -> None:
    """Make the model repository at hf://OWNER/NAME unless it is there.

    private: None for the default of the account.
    token: None for the one that huggingface_hub finds, as in HF_TOKEN.

    Raises RemoteError, MissingExtraError.
    """
    require("huggingface_hub", file=url)

    def make() -> None:
        from huggingface_hub import HfApi

        with naming(url):
            HfApi(token=token).create_repo("/".join(url.parts), private=private, exist_ok=True)

    patiently(make, url)


def commit(
    url: Url,
    files: Mapping[str, Path | bytes],
    stale: Iterable[str],
    message: str,
    token: str | None,
) -> str:
    """Write files to the repository at hf://OWNER/NAME as one commit; return the commit's hash.

    stale: suffixes of files that the commit removes if they are in the repository and not written.
    Raises as :func:`make_repository`.
    """
    require("huggingface_hub", file=url)
    repository, suffixes = "/".join(url.parts), tuple(stale)

    def act() -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        names = [x.name for x in files_in(url) or () if not x.is_folder] if suffixes else []
        gone = [x for x in names if x.endswith(suffixes) and x not in files]
        operations: list[Any] = [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]
        with naming(url):
            api = HfApi(token=token)
            return str(api.create_commit(repository, operations, commit_message=message).oid)

    return patiently(act, url)
