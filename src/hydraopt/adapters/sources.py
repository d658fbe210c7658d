"""Resolution of user input to an adapter's files: one weight file, one config, one name."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.model import check_name
from hydraopt.adapters.tensorfile import WEIGHT_SUFFIXES
from hydraopt.adapters.tensors import can_be_safetensors, refuse
from hydraopt.errors import NotThereError, UsageError, explain
from hydraopt.files import (
    MOST_CONFIG,
    AnyPath,
    Url,
    copy_to,
    files_in,
    gone,
    is_there,
    is_url,
    new_folder,
    patiently,
    place_of,
    read_regular,
    store_of,
    strict_json,
)
from hydraopt.notes import Note, listed

# In order of preference: safetensors cannot run code and needs no torch.
_USUAL: Final = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapters.safetensors",
    "adapters.npz",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
_CONFIG: Final = "adapter_config.json"
_MOST_LISTED: Final = 8
_AGAIN: Final = "Correct it, or download or save the adapter again"


@dataclass(frozen=True)
class Source:
    """Files of one adapter.

    names: candidate task names, the last in the path first.  origin: address that they are copies
    from.
    """

    weights: Path
    config: Path
    names: tuple[str, ...]
    notes: tuple[Note, ...]
    origin: Url | None = None


@dataclass(frozen=True)
class Request:
    """Adapter that a user asked for, with the name given to it, if any."""

    path: AnyPath
    name: str | None


def locate(path: str | os.PathLike[str]) -> Source:
    """Return the weight file and config that a folder or a file name stand for.

    A folder's usual file names are tried in order, safetensors first; a folder with exactly one
    weight file of another name means that one.

    Of an address both are copied to this machine, where they stay as long as the process lives: all
    of an adapter is read, and more than once.

    Raises AdapterFormatError if there is nothing to read or more than one candidate, RemoteError.
    """
    where = place_of(path)
    if isinstance(where, Url):
        return _fetched(where)
    if where.name == _CONFIG:
        where = where.parent
    notes: list[Note] = []
    if where.is_dir():
        folder, weights = where, where / _weights_in(where, notes)
    elif where.exists():
        folder, weights = where.parent, where
    else:
        named = len(where.parts) == 2 and not where.is_absolute() and not where.parent.exists()
        hub = f"; on the Hugging Face hub it is hf://{where.as_posix()}" if named else ""
        refuse("no such file or folder", where, do=f"Check the path{hub}")
    names = [name for name in Path(os.path.realpath(folder)).parts if name != folder.anchor]
    if weights.name not in _USUAL and where != folder:
        names.append(weights.stem)
    return Source(weights, folder / _CONFIG, tuple(reversed(names)) or ("adapter",), tuple(notes))


def _weights_in(folder: AnyPath, notes: list[Note]) -> str:
    """Return the name of the weight file that a folder, here or in a store, stands for."""
    entries = files_in(folder)
    if entries is None:
        # A plain web server lists nothing: the usual names are tried.
        for name in _USUAL:
            if is_there(folder / name):
                return name
        raise gone(Url(os.fspath(folder)), "none of the usual names of weight files")
    files = [x.name for x in entries if not x.is_folder and Path(x.name).suffix in WEIGHT_SUFFIXES]
    usual = [name for name in _USUAL if name in files]
    if usual:
        if len(usual) > 1:
            ignored = ", ".join(usual[1:])
            text = f"{usual[0]} was read, {ignored} beside it was not"
            notes.append(Note("other_weight_files", text, ignored))
        return usual[0]
    if len(files) > 1:
        do = f"Name the file to read, or give {folder}/*.safetensors to read each"
        refuse("folder holds several weight files", folder, got=", ".join(files[:8]), do=do)
    if files:
        text = f"the folder's only weight file, {files[0]!r}, was read"
        notes.append(Note("only_weight_file", text, files[0]))
        return files[0]
    if not entries and isinstance(folder, Url):
        raise gone(folder)
    inside = [x.name for x in entries if x.is_folder and is_there(folder / x.name / _CONFIG)]
    there = str(folder).rstrip("/")
    refuse(
        "folder holds no adapter",
        folder,
        got=f"adapters in subfolders: {', '.join(inside[:8])}" if inside else None,
        expected="adapter_model.safetensors and adapter_config.json",
        do=f"Give {there}/* to read its subfolders" if inside else "Check the path",
    )


def _fetched(url: Url) -> Source:
    """Return copies of the files of an adapter at an address."""
    if url.name == _CONFIG:
        url = url.parent
    notes: list[Note] = []
    single = url.suffix.lower() in WEIGHT_SUFFIXES and not url.is_folder
    folder = url.parent if single else url
    name = url.name if single else _weights_in(url, notes)
    copies = new_folder(folder)
    place, config = folder / name, folder / _CONFIG
    is_safetensors = place.suffix.lower() == ".safetensors"
    weights = copies / (Path(name).name or "object")
    copy_to(place, weights, can_be_safetensors(place) if is_safetensors else None)
    with suppress(NotThereError):
        copy_to(config, copies / _CONFIG, partial(_check_config, config))
    names = list(folder.parts)
    if name not in _USUAL and single:
        names.append(Path(name).stem)
    # As on this machine: what cannot name a task is not proposed as one.
    shown_names = tuple(x for x in reversed(names) if x and not set(x) & set("/\\:"))
    return Source(weights, copies / _CONFIG, shown_names or ("adapter",), tuple(notes), folder)


def _check_config(url: Url, head: bytes | bytearray, size: int) -> bool:
    if size > MOST_CONFIG:
        got, most = f"{size} bytes", f"at most {MOST_CONFIG}"
        refuse("config is too large to be read", url, got=got, expected=most, do=_AGAIN)
    return True


def load_config(path: Path) -> dict[str, Any] | None:
    """Return adapter_config.json as a dict; None if there is none.

    Raises AdapterFormatError if it cannot be read as a JSON object.
    """
    try:
        config = strict_json(read_regular(path, MOST_CONFIG), unique=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        refuse("config cannot be read", path, got=error, do=_AGAIN)
    if not isinstance(config, dict):
        refuse("config is not a JSON object", path, got=type(config).__name__, do=_AGAIN)
    return config


def expand(
    items: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[list[Request], list[Note]]:
    """Return requests for paths, glob patterns, and NAME=PATH strings, in the order given.

    The notes tell which files were left out, and which paths were given again.

    A pattern stands for the matches that can be an adapter: folders with a weight file or a
    config, and weight files; the others are left out. A shell writes out its patterns before it
    calls, so a file that is no weight file is left out as well if it lies beside an adapter that is
    given in the same call; alone, or under a name of its own, it is taken at its word. Two
    spellings of one path count once, except under different names.

    Raises UsageError for a pattern that matches nothing, or an unusable name.
    """
    if isinstance(items, str | os.PathLike):
        items = [items]
    requests: dict[tuple[AnyPath, str | None], Request] = {}
    left_out: list[AnyPath] = []
    repeated: dict[AnyPath, None] = {}
    for item in items:
        name, text = _named(item)
        if not text:
            raise UsageError(explain("an empty path", got=repr(item), do="Give NAME=PATH or PATH"))
        place = place_of(text)
        paths = [place]
        web = isinstance(place, Url) and place.is_web
        # A query has marks that are no pattern.
        magic = "*" in text.partition("?")[0] if web else glob.has_magic(text)
        if magic and not (isinstance(place, Path) and place.exists()):
            matches = _matches(place)
            paths = [path for path in matches if _may_be(path)]
            chosen = set(paths)
            left_out += [path for path in matches if path not in chosen]
            if not paths:
                raise UsageError(explain("pattern matches no adapter", got=text, do="Check it"))
            if name is not None and len(paths) > 1:
                raise UsageError(
                    explain("one name for several adapters", got=item, expected="NAME=PATH of one")
                )
        for path in paths:
            whole = Path(os.path.realpath(path)) if isinstance(path, Path) else path
            if (whole, name) in requests:
                repeated.setdefault(path)
            requests.setdefault((whole, name), Request(path, name))
    local = [(x, x.path) for x in requests.values() if isinstance(x.path, Path)]
    folders = {Path(os.path.realpath(path.parent)) for _, path in local if _may_be(path)}
    beside = [x for x, path in local if x.name is None and _lies_in(path, folders)]
    left_out += [x.path for x in beside]
    notes = []
    if left_out:
        notes.append(Note("no_adapter", *_listing("left out, no adapter", left_out)))
    if repeated:
        notes.append(Note("given_twice", *_listing("given twice, and read once", repeated)))
    return [x for x in requests.values() if x not in beside], notes


def _listing(text: str, paths: Iterable[AnyPath]) -> tuple[str, str]:
    """Return the text of a note on paths, each once, and all of them in one line."""
    each = [str(path) for path in dict.fromkeys(paths)]
    return f"{text}: {listed(each, _MOST_LISTED)}", ", ".join(each)


def _matches(pattern: AnyPath) -> list[AnyPath]:
    """Return the paths that match a pattern, sorted."""
    if isinstance(pattern, Path):
        return [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    return list(patiently(lambda: store_of(pattern).matches(pattern), pattern))


def _named(item: str | os.PathLike[str]) -> tuple[str | None, str]:
    """Return the name and the path of NAME=PATH; an existing path is a path, whatever it holds.

    Raises UsageError for an unusable name.
    """
    text = os.fspath(item)
    if isinstance(item, str) and "=" in text and not is_url(text) and not Path(text).exists():
        head, _, tail = text.partition("=")
        if "/" not in head and os.sep not in head:
            return check_name(head), tail
    return None, text


def _lies_in(path: Path, folders: Collection[Path]) -> bool:
    """Return whether the path is a file in one of the folders, but neither weights nor a config."""
    other = path.suffix.lower() not in WEIGHT_SUFFIXES and path.name != _CONFIG
    return other and path.is_file() and Path(os.path.realpath(path.parent)) in folders


def _may_be(path: AnyPath) -> bool:
    """Return whether a path is a weight file, or a folder with one or with a config."""
    if path.suffix.lower() in WEIGHT_SUFFIXES and not (isinstance(path, Path) and path.is_dir()):
        return True
    if isinstance(path, Path) and not path.is_dir():
        return False
    names = [x.name for x in files_in(path) or () if not x.is_folder]
    return any(Path(x).suffix in WEIGHT_SUFFIXES or x == _CONFIG for x in names)


def name_apart(candidates: list[tuple[str, ...]]) -> list[str]:
    """Return a name for each, the shortest that is unique: "fr", or "run1-fr" and "run2-fr".

    candidates: names in the path, last first. Two adapters with all equal keep equal names.
    """
    depth = [1] * len(candidates)
    while True:
        names = ["-".join(reversed(c[:d])) for c, d in zip(candidates, depth, strict=True)]
        grown = [
            d + 1 if names.count(name) > 1 and d < len(c) else d
            for c, d, name in zip(candidates, depth, names, strict=True)
        ]
        if grown == depth:
            return names
        depth = grown
