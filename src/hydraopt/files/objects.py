"""Objects in stores that fsspec knows: s3://, gs://, hf://, memory:// and others.

This file alone imports fsspec, when an address is first used. Settings and credentials are those of
each store's own library, from its environment variables and files; hydraopt sees none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from hydraopt.errors import RemoteError
from hydraopt.files.addresses import (  # fmt: skip
    HUB_KEY,
    Check,
    Entry,
    Mark,
    PassingError,
    Start,
    Url,
    gone,
    missing,
    refuse,
)

_TAGS: Final = ("ETag", "etag", "md5Hash", "blob_id", "generation", "LastModified", "created")
_LIBRARIES: Final = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub",
    "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip
_DENIED: Final = (
    "accessdenied", "forbidden", "invalidaccesskeyid", "signaturedoesnotmatch", "expiredtoken",
    "nocredentials", "unable to locate credentials", "partialcredentials", "unauthorized",
    "anonymous caller", "invalid_grant", "defaultcredentials", "not authorized", "access denied",
)  # fmt: skip
_KEYS: Final = "Check the store's own settings (for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and more)"
_ONE_TRY: Final = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
"""For S3: botocore's retries in each of hydraopt's (``patiently``) would take a minute."""
_NO_WRITE: Final = (NotImplementedError, TypeError)


class ObjectStore:
    """Store of objects; see hydraopt.files.stores.Store."""

    def start(self, url: Url, ahead: int, check: Check | None = None) -> Start:
        mark = self.mark(url)
        return Start(mark, self.read(url, 0, min(ahead, mark.size), mark))

    def read(self, url: Url, start: int, size: int, mark: Mark) -> bytes:
        if not size:
            return b""
        with naming(url):
            # Without this setting, the file system of the hub fetches 5 MiB at a time.
            exact = {"cache_type": "none"} if url.is_hub else {}
            system = _system(url, listed=True)
            data = bytes(system.cat_file(url.text, start=start, end=start + size, **exact))
        if len(data) < size:
            # Shorter for good only if it is another object now.
            now = self.mark(url)
            if now != mark:
                got, expected = f"{now.size} bytes", f"{mark.size} bytes"
                refuse("object changed while it was read", url, got, expected, "Run again")
            raise PassingError(f"a range that came short: {len(data)} bytes of {size}")
        if len(data) > size:
            refuse("store sent more than was asked for", url, f"{len(data)} bytes", f"{size} bytes")
        return data

    def mark(self, url: Url) -> Mark:
        with naming(url):
            about = _system(url).info(url.text)
        if about.get("type") == "directory" or not isinstance(about.get("size"), int):
            raise gone(url, "a folder")
        return Mark(about["size"], _tag_of(about))

    def entries(self, url: Url) -> list[Entry] | None:
        with naming(url):
            try:
                rows = _system(url).ls(url.text.rstrip("/"), detail=True)
            except FileNotFoundError:
                return []
        inside = []
        for row in rows:
            name = str(row["name"]).rstrip("/").rpartition("/")[2]
            folder = row.get("type") == "directory"
            # A store may list an object of the folder's own name.
            if name and (folder or not str(row["name"]).endswith("/")):
                inside.append(Entry(name, folder, row.get("size"), _tag_of(row)))
        return inside

    def matches(self, url: Url) -> list[Url]:
        with naming(url):
            return [Url(_full(str(x), url)) for x in sorted(_system(url).glob(url.text))]

    def put(self, url: Url, data: bytes) -> None:
        self._written(url, lambda system: system.pipe_file(url.text, data))
        if self.mark(url).size != len(data):
            raise PassingError("an object of another size than was written")

    def create(self, url: Url, data: bytes) -> bool:
        try:
            self._written(url, lambda system: system.pipe_file(url.text, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, url: Url) -> None:
        def gone_now(system: Any) -> None:
            try:
                system.rm_file(url.text)
            except FileNotFoundError:
                return

        self._written(url, gone_now)

    def _written(self, url: Url, act: Callable[[Any], object]) -> None:
        with naming(url):
            try:
                act(_system(url))
            except _NO_WRITE as error:
                refuse("store cannot be written", url, type(error).__name__, do="Choose another")


def _tag_of(about: Mapping[str, Any]) -> str | None:
    """Return the store's tag, which distinguishes objects of equal length; None if it has none."""
    tags = (about[key] for key in _TAGS if about.get(key) is not None)
    tag = next(tags, None)
    # A list may say a time otherwise than who is asked for one object.
    tag = tag.timestamp() if isinstance(tag, datetime) else tag
    return None if tag is None else str(tag)


def _system(url: Url, listed: bool = False) -> Any:
    """Return the file system of an address, without its cached listings.

    listed: keep them, for ranges of an object whose mark was just read.
    """
    try:
        import fsspec
    except ImportError as error:
        raise missing("huggingface_hub" if url.is_hub else "fsspec", url) from error
    try:
        settings = _ONE_TRY if url.scheme in {"s3", "s3a"} else {}
        system, _ = fsspec.core.url_to_fs(url.text, **settings)
    except ImportError as error:
        library = _LIBRARIES.get(url.scheme, url.scheme)
        raise missing(library, url) from error
    except ValueError as error:
        refuse("no store of that kind is known", url, url.scheme, "s3, gs, hf, https", None)
        raise AssertionError from error
    if not listed:
        system.invalidate_cache()
    return system


@contextmanager
def naming(url: Url) -> Iterator[None]:
    """Convert exceptions of a store's library to errors of ours that name the address."""
    try:
        yield
    except (RemoteError, PassingError, FileExistsError):
        raise
    except FileNotFoundError as error:
        raise gone(url) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        low = reason.lower().replace(" ", "")
        if isinstance(error, PermissionError) or any(x.replace(" ", "") in low for x in _DENIED):
            do = HUB_KEY if url.is_hub else _KEYS
            refuse("store denies access", url, type(error).__name__, do=do)
        if "preconditionfailed" in low or "atleastoneofthepre-conditions" in low:
            raise FileExistsError(str(url)) from error
        if isinstance(error, IsADirectoryError):
            raise gone(url, "a folder") from error
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError):
            refuse("store cannot be used", url, reason, do="Check the address")
        raise PassingError(reason) from error


def _full(path: str, pattern: Url) -> str:
    """Return the address of a path from a file system, in the scheme of ``pattern``."""
    return path if "://" in path else f"{pattern.scheme}://{path.lstrip('/')}"
