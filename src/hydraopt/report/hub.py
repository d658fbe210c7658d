"""Upload a bundle with its model card to the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hydraopt.bundle.container import CORE, CORE_SUFFIX, INDEX_NAME, TASK_SUFFIX
from hydraopt.errors import UsageError, explain
from hydraopt.files.hub import Repository
from hydraopt.files.url import Url, place_of
from hydraopt.report.build import collect
from hydraopt.report.card import MARK, bundle_card

__all__ = ["push_to_hub"]

StrPath = str | os.PathLike[str]

_CARD: Final = "README.md"
_HUB: Final = "hf://"
_MOST_CARD: Final = 1 << 20


def push_to_hub(
    bundle: StrPath,
    repository: str,
    results: Sequence[StrPath] = (),
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
