"""Which probes lie at the paths that a user names; read, without doubles, and sampled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import file_hash, open_regular
from hydraopt.probes.answers import load_bbq, load_kobbq
from hydraopt.probes.items import ProbeItem, sampled
from hydraopt.probes.pairs import (
    load_crows_pairs,
    load_seegull,
    load_winobias,
    load_winogender,
)
from hydraopt.probes.table import Loaded

__all__ = ["PROBES", "ProbeSet", "read_probes"]

_MOST_FILES: Final = 5000
_DEPTH: Final = 6
_HEAD: Final = 4096
_MOST_TEXT: Final = 4000
"""Characters of a side with its prompt."""
MOST_ITEMS: Final = 500_000
"""Of all probes together, before they are sampled."""


@dataclass(frozen=True)
class _Kind:
    """fits: by the name and the first bytes of a file."""

    source: str
    licence: str
    fits: Callable[[str, str], bool]
    load: Callable[[Path], Loaded]


def _begins(*columns: str) -> Callable[[str, str], bool]:
    return lambda _, head: all(x in head.split("\n", 1)[0] for x in columns)


PROBES: Final = {
    "winogender": _Kind(
        "github.com/rudinger/winogender-schemas", "MIT", _begins("sentid\t"), load_winogender
    ),
    "winobias": _Kind(
        "github.com/uclanlp/corefBias",
        "MIT",
        lambda name, head: name.startswith("pro_stereotyped_type") and "[" in head,
        load_winobias,
    ),
    "bbq": _Kind(
        "github.com/nyu-mll/BBQ",
        "CC-BY-4.0",
        lambda name, head: name.endswith(".jsonl") and '"question_polarity"' in head,
        load_bbq,
    ),
    "seegull": _Kind(
        "github.com/google-research-datasets/seegull",
        "CC-BY-4.0",
        _begins("identity,attribute,region_stereo"),
        load_seegull,
    ),
    "kobbq": _Kind(
        "github.com/naver-ai/KoBBQ",
        "MIT",
        _begins("sample_id\t", "\tbiased_answer\t"),
        load_kobbq,
    ),
    "crows-pairs": _Kind(
        "github.com/nyu-mll/crows-pairs",
        "CC-BY-SA-4.0",
        _begins("sent_more,sent_less"),
        load_crows_pairs,
    ),
}
"""By name: where a probe is from, and how its files are known and read."""


@dataclass(frozen=True)
class ProbeSet:
    """items: by probe, as they are asked. sources: for the result, a row for each file."""

    items: dict[str, list[ProbeItem]]
    sources: list[dict[str, Any]]


def read_probes(paths: Sequence[str | os.PathLike[str]], most: int | None = None) -> ProbeSet:
    """The probes of files, and of folders with all that lies below them.

    most: items of each probe at most, see :func:`sampled`. A file of a folder that is none of the
    probes is passed by. Raises UsageError for a path that has none, and for damaged files.
    """
    items: dict[str, dict[str, ProbeItem]] = {}
    sources = []
    for path in paths:
        known = [(file, name) for file in _files(Path(path)) for name in _names(file)]
        if not known:
            raise UsageError(
                explain(
                    "no probe lies there",
                    file=path,
                    expected=f"the files of {', '.join(PROBES)}, as their repositories have them",
                    do="See docs/howto/fairness.md",
                )
            )
        for file, name in known:
            loaded = PROBES[name].load(file)
            mine = items.setdefault(name, {})
            before = len(mine)
            kept = _askable(loaded)
            for item in kept:
                mine.setdefault(item.key, item)
            doubles = len(kept) - (len(mine) - before)
            if doubles:
                loaded.skip("items that another file has", doubles)
            if sum(map(len, items.values())) > MOST_ITEMS:
                expected = f"at most {MOST_ITEMS:,}"
                raise UsageError(explain("too many items", file=file, expected=expected))
            sources.append(
                {
                    "probe": name,
                    "file": file.name,
                    "sha256": file_hash(file),
                    "items": len(mine) - before,
                    "left_out": loaded.left_out,
                }
            )
    chosen = {name: sampled(list(mine.values()), most) for name, mine in items.items() if mine}
    if not chosen:
        raise UsageError(explain("no probe has an item", got=f"{len(sources)} files without any"))
    return ProbeSet(chosen, sources)


def _askable(loaded: Loaded) -> list[ProbeItem]:
    """The items that a model can be asked; the others are counted as left out."""
    kept = []
    for item in loaded.items:
        texts = [(side.prompt, side.text) for side in item.sides]
        if not all(text.strip() for _, text in texts):
            loaded.skip("sides without a text")
        elif len(set(texts)) < len(texts):
            loaded.skip("sides that are alike")
        elif max(len(prompt) + len(text) for prompt, text in texts) > _MOST_TEXT:
            loaded.skip(f"over {_MOST_TEXT:,} characters")
        else:
            kept.append(item)
    return kept


def _files(path: Path) -> Iterator[Path]:
    """A file itself; of a folder all files, in the order of their names, not through links."""
    if not path.is_dir():
        if not path.is_file():
            raise UsageError(explain("no such file or folder", file=path))
        yield path
        return
    count = 0
    for place, folders, files in os.walk(path):
        deep = len(Path(place).relative_to(path).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(x for x in folders if not x.startswith("."))
        for name in sorted(files):
            count += 1
            if count > _MOST_FILES:
                do = "Name the folder of the probe's data itself"
                raise UsageError(explain("too many files", file=path, do=do))
            if not (Path(place) / name).is_symlink():
                yield Path(place) / name


def _names(file: Path) -> list[str]:
    """The probe that the file is of, if it is of any."""
    if file.suffix not in (".tsv", ".csv", ".jsonl", ".dev", ".test"):
        return []
    try:
        with open_regular(file) as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return []
    return [name for name, kind in PROBES.items() if kind.fits(file.name, head)]
