"""Known probes: where each is from, and how its files are recognised."""

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

__all__ = ["NO_PROBE", "PROBES", "Looked", "ProbeKind", "look"]

NO_PROBE: Final = "no probe"

_HEAD: Final = 16_384
"""Number of bytes read to recognise a file, which is more than a row has."""
_SUFFIXES: Final = (".tsv", ".csv", ".jsonl", ".dev", ".test")
_LIKE: Final = 0.5
"""Smallest share of a probe's columns in a file that looks like the probe."""


@dataclass(frozen=True)
class ProbeKind:
    """A kind of probe.

    fits: recognises a file by its name, first bytes and columns.
    columns: required columns of a table or keys of rows; without them, files are recognised by
        name.
    beside: maps the name of a file to that of the file that is read along.
    """

    source: str
    licence: str
    fits: Callable[[str, str, Collection[str]], bool]
    load: Callable[[Path], Loaded]
    columns: tuple[str, ...] = ()
    beside: Callable[[str], str] | None = None


def _has(*marks: str) -> Callable[[str, str, Collection[str]], bool]:
    return lambda _, __, columns: set(marks) <= set(columns)


PROBES: Final = {
    "winogender": ProbeKind(
        "github.com/rudinger/winogender-schemas",
        "MIT",
        _has("sentid"),
        load_winogender,
        WINOGENDER_COLUMNS,
        lambda _: STATISTICS,
    ),
    "winobias": ProbeKind(
        "github.com/uclanlp/corefBias",
        "MIT",
        lambda name, head, _: name.startswith("pro_stereotyped_type") and "[" in head,
        load_winobias,
        beside=other_half,
    ),
    "bbq": ProbeKind(
        "github.com/nyu-mll/BBQ",
        "CC-BY-4.0",
        lambda name, head, _: name.endswith(".jsonl") and '"question_polarity"' in head,
        load_bbq,
        BBQ_KEYS,
    ),
    "seegull": ProbeKind(
        "github.com/google-research-datasets/seegull",
        "CC-BY-4.0",
        _has(*SEEGULL_COLUMNS),
        load_seegull,
        SEEGULL_COLUMNS,
    ),
    "kobbq": ProbeKind(
        "github.com/naver-ai/KoBBQ",
        "MIT",
        _has("sample_id", "biased_answer"),
        load_kobbq,
        KOBBQ_COLUMNS,
    ),
    "crows-pairs": ProbeKind(
        "github.com/nyu-mll/crows-pairs",
        "CC-BY-SA-4.0",
        _has("sent_more", "sent_less"),
        load_crows_pairs,
        CROWS_COLUMNS,
    ),
}
"""Kinds of probes by name."""


@dataclass(frozen=True)
class Looked:
    """Result of inspecting a file.

    probe: its probe, None for none.
    columns: columns of its first row, as far as they can be read.
    trouble: reason why it cannot be read at all.
    """

    file: Path
    probe: str | None
    columns: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def beside(self) -> Path | None:
        """File that its probe reads as well."""
        beside = PROBES[self.probe].beside if self.probe is not None else None
        return None if beside is None else self.file.with_name(beside(self.file.name))

    def like(self) -> tuple[str, list[str]] | None:
        """Return the most similar probe and its missing columns; None if most are missing."""
        shares = {
            name: len(set(self.columns).intersection(kind.columns)) / len(kind.columns)
            for name, kind in PROBES.items()
            if kind.columns
        }
        best = max(shares, key=lambda name: shares[name])
        missing = [x for x in PROBES[best].columns if x not in self.columns]
        return (best, missing) if shares[best] >= _LIKE else None

    def why(self) -> str:
        """Explain briefly why the file belongs to no probe."""
        like = self.like()
        if self.trouble or like is None:
            return f"cannot be read: {self.trouble}" if self.trouble else NO_PROBE
        how = f"without {listed(like[1])}" if like[1] else "in another layout"
        return f"like {like[0]}, {how}"

    def refusal(self) -> UsageError:
        """Return the error for a file that was named and is of no probe; raised by the caller."""
        like = self.like()
        names = PROBES if like is None else (like[0],)
        expected = "; ".join(
            f"{name}: {listed(PROBES[name].columns) or 'pro_stereotyped_typeN.txt.SPLIT'}"
            for name in names
        )
        return UsageError(
            explain(
                f"{self.why()}: the file is of no probe that is known",
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
        return Looked(file, None, trouble=error.strerror or str(error))
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
