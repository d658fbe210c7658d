"""Write the page or the model card of a bundle to a file, or upload it to the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from hydraopt.bundle import CORE
from hydraopt.errors import NotThereError, UsageError, explain, require
from hydraopt.files import (
    CORE_SUFFIX,
    INDEX_NAME,
    TASK_SUFFIX,
    StrPath,
    Url,
    check_apart,
    check_replaceable,
    destination,
    naming,
    patiently,
    place_of,
    write_atomically,
)
from hydraopt.progress import Progress
from hydraopt.report.builder import Collected, build, collect
from hydraopt.report.card import MARK, bundle_card
from hydraopt.report.data import Page
from hydraopt.report.page import render


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


def write_report(
    bundle: StrPath,
    output: StrPath,
    originals: Iterable[StrPath] = (),
    results: Iterable[StrPath] = (),
    *,
    same_base: bool = False,
    alpha: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Page:
    """Write an HTML page about the size of a bundle and its effect on each task; return its data.

    Every task on the page is decoded once. The page needs no network.

    bundle: path or address, as for :func:`hydraopt.open_bundle`.
    output: file to write. A page that hydraopt wrote before is replaced.
    originals: adapters of the tasks, whose likeness the page shows instead of that of the coded
        tasks.
    results: files written by ``hydraopt eval -o``.
    same_base, alpha: as for :func:`hydraopt.merge`.
    overwrite: replace a file that hydraopt did not write.

    Raises UsageError if ``output`` cannot be written or no task is among the originals, and the
    errors of opening a bundle.
    """
    adapters, files = list(originals), list(results)
    check_replaceable(output, overwrite, lambda text: b": hydraopt report</title>" in text)
    check_apart(output, [bundle, *adapters, *files])
    page = build(bundle, adapters, files, same_base=same_base, alpha=alpha, progress=progress)
    write_atomically(destination(output), [render(page).encode()])
    return page


def write_card(
    bundle: StrPath,
    output: StrPath | None,
    results: Sequence[StrPath] = (),
    *,
    overwrite: bool = False,
) -> tuple[str, Collected]:
    """Write the model card of a bundle, and return its text and the data; nothing is decoded.

    output: file to write, or None. A card that hydraopt wrote before is replaced.
    results, overwrite: as for :func:`write_report`. Raises as :func:`write_report`.
    """
    if output is not None:
        check_replaceable(output, overwrite, lambda text: b"\nlibrary_name: hydraopt\n" in text)
        check_apart(output, [bundle, *results])
    known = collect(bundle, results)
    text = bundle_card(known)
    if output is not None:
        write_atomically(destination(output), [text.encode()])
    return text, known


_Results = str | os.PathLike[str]

_CARD: Final = "README.md"
_HUB: Final = "hf://"
_MOST_CARD: Final = 1 << 20


def push_to_hub(
    bundle: _Results,
    repository: str,
    results: Sequence[_Results] = (),
    *,
    private: bool | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a bundle and its model card to a model repository of the Hugging Face hub.

    All files are uploaded in one commit. If the bundle has several files, the commit also removes
    task files and core files that are in the repository but not in this bundle. A README.md that
    hydraopt did not write stays.

    bundle: path of the bundle on this machine.
    repository: OWNER/NAME. It is created if it does not exist.
    results: files written by ``hydraopt eval -o``, whose scores the card lists.
    private: whether a new repository is private. Default: as the account has it.
    message: message of the commit.
    token: access token. Default: HF_TOKEN, or the token that ``hf auth login`` stored.

    Returns the address of the bundle at this commit, which :func:`hydraopt.open_bundle` opens.
    Raises UsageError for a bundle at an address or a repository that is not OWNER/NAME, RemoteError
    if the hub refuses, MissingExtraError without huggingface_hub, and as ``open_bundle``.
    """
    url = Url(repository if repository.startswith(_HUB) else f"{_HUB}{repository}")
    if not url.is_repository or "@" in repository:
        do = "Name a repository as OWNER/NAME"
        raise UsageError(explain("not a model repository", got=repository, do=do))
    place = place_of(bundle)
    if isinstance(place, Url):
        raise UsageError(explain("only a bundle on this machine can be uploaded", file=place))
    known = collect(place, results)
    files = {x.path.name: Path(x.path) for x in known.bundle.files}
    apart = known.bundle.files[0].format == CORE
    index = place / INDEX_NAME if place.is_dir() else place.parent / INDEX_NAME
    if apart and index.is_file():
        files[INDEX_NAME] = index
    card = bundle_card(known, address=url.text).encode()
    hub = Repository(url, token)
    hub.make(private)
    before = hub.start_of(_CARD, _MOST_CARD)
    cards = {_CARD: card} if before is None or MARK.encode() in before else {}
    stale = (CORE_SUFFIX, TASK_SUFFIX, INDEX_NAME) if apart else ()
    made = hub.commit({**cards, **files}, stale, message or f"Upload {known.name}")
    return f"{url.text}@{made}"
