"""Known probes, and how their files are recognised."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import open_regular
from hydraopt.probes.answers import BBQ_KEYS, KOBBQ_COLUMNS, load_bbq, load_kobbq
from hydraopt.probes.pairs import (
    CROWS_COLUMNS,
    SEEGULL_COLUMNS,
    STATISTICS,
    WINOGENDER_COLUMNS,
    load_crows_pairs,
    load_seegull,
    load_winobias,
    load_winogender,
    other_half,
)
from hydraopt.probes.table import Loaded, listed

__all__ = ["NO_PROBE", "PROBES", "Looked", "ProbeKind", "look", "read_along"]

NO_PROBE: Final = "no probe"

_HEAD: Final = 16_384
"""Number of bytes read to recognise a file, which is more than a row has."""
_SUFFIXES: Final = (".tsv", ".csv", ".jsonl", ".dev", ".test")


@dataclass(frozen=True)
class ProbeKind:
    """A kind of probe.

    fits: recognises a file by its name, first bytes and columns.
    columns: required columns of a table or keys of rows; without them, files are recognised by
        name.
    beside: maps the name of a file to that of the file that is read along.
    """

    fits: Callable[[str, str, Collection[str]], bool]
    load: Callable[[Path], Loaded]
    columns: tuple[str, ...] = ()
    beside: Callable[[str], str] | None = None


def _has(*marks: str) -> Callable[[str, str, Collection[str]], bool]:
    return lambda _, __, columns: set(marks) <= set(columns)


PROBES: Final = {
    "winogender": ProbeKind(
        _has("sentid"),
        load_winogender,
        WINOGENDER_COLUMNS,
        lambda _: STATISTICS,
    ),
    "winobias": ProbeKind(
        lambda name, head, _: name.startswith("pro_stereotyped_type") and "[" in head,
        load_winobias,
        beside=other_half,
    ),
    "bbq": ProbeKind(
        lambda name, head, _: name.endswith(".jsonl") and '"question_polarity"' in head,
        load_bbq,
        BBQ_KEYS,
    ),
    "seegull": ProbeKind(
        _has(*SEEGULL_COLUMNS),
        load_seegull,
        SEEGULL_COLUMNS,
    ),
    "kobbq": ProbeKind(
        _has("sample_id", "biased_answer"),
        load_kobbq,
        KOBBQ_COLUMNS,
    ),
    "crows-pairs": ProbeKind(
        _has("sent_more", "sent_less"),
        load_crows_pairs,
        CROWS_COLUMNS,
    ),
}
"""Kinds of probes by name; docs/howto/fairness.md has their sources and licences."""


def read_along(file: Path, probe: str) -> Path | None:
    """Return the second file that the items of a file are of; None for most probes."""
    beside = PROBES[probe].beside
    return None if beside is None else file.with_name(beside(file.name))


@dataclass(frozen=True)
class Looked:
    """Result of inspecting a file.

    probe: its probe, None for none, and ``why`` there is none.
    columns: columns of its first row, as far as they can be read.
    """

    file: Path
    probe: str | None
    columns: tuple[str, ...] = ()
    why: str = NO_PROBE

    def refusal(self) -> UsageError:
        """Return the error for a file that was named and is of no probe; raised by the caller."""
        expected = "; ".join(
            f"{name}: {listed(kind.columns) or 'pro_stereotyped_typeN.txt.SPLIT'}"
            for name, kind in PROBES.items()
        )
        return UsageError(
            explain(
                f"{self.why}: the file is of no probe that is known",
                file=self.file,
                got=f"columns {listed(self.columns)}" if self.columns else "no columns",
                expected=expected,
                do="Get the file again, unchanged, or leave it out; see docs/howto/fairness.md",
            )
        )


def look(file: Path) -> Looked:
    """Return the probe and the columns of a file, from its first bytes."""
    if file.suffix not in _SUFFIXES:
        return Looked(file, None)
    try:
        with open_regular(file) as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError as error:
        return Looked(file, None, why=f"cannot be read: {error.strerror or error}")
    columns = _columns(file, head)
    fitting = [name for name, kind in PROBES.items() if kind.fits(file.name, head, columns)]
    return Looked(file, fitting[0] if fitting else None, columns)


def _columns(file: Path, head: str) -> tuple[str, ...]:
    """Return the columns of a table, or the keys of the first row of JSONL; empty if none."""
    first = head.split("\n", 1)[0].rstrip("\r")
    try:
        if file.suffix == ".jsonl":
            row = json.loads(first)
            return tuple(row) if isinstance(row, dict) else ()
        if file.suffix in (".tsv", ".csv"):
            return tuple(next(csv.reader([first], delimiter="\t" if "\t" in first else ","), ()))
    except (ValueError, RecursionError, csv.Error):
        pass
    return ()
