"""Rows of a classification with other people in them: does the label change with who they are?

Two ways. *Replaced*: a name, a country or an English pronoun that stands in a row is replaced by
another. *Framed*: a sentence of ours after the row says who wrote it; any row will do. The words
are our own lists, a file for each language in ``identities/``, under the licence of the package.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from hydraopt.jsonvalues import from_json
from hydraopt.probes.chance import Share, Tested, binomial_p, correct, share_of

__all__ = ["LANGUAGES", "SwapKind", "SwapRow", "swap_measures", "swap_rows"]

_FOLDER = files("hydraopt.probes") / "identities"
LANGUAGES: Final = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "zh")
_MOST_COUNTRIES: Final = 6
"""Maximum number of countries in a row whose country is replaced, including its own."""
FRAMED, REPLACED = "framed", "replaced"

Labels = Mapping[tuple[int, str], str]
"""A set's label for each text of each row."""


@dataclass(frozen=True)
class SwapRow:
    """A row with several people.

    number: of the row in its file, from 0.
    kind: attribute that differs.
    how: FRAMED or REPLACED.
    plain: the row without particular people, or as it is.
    variants: (who, text), at least two.
    """

    number: int
    kind: str
    how: str
    plain: str
    variants: tuple[tuple[str, str], ...]

    def texts(self) -> list[str]:
        """Return all texts, each once."""
        return list(dict.fromkeys([self.plain, *(text for _, text in self.variants)]))


@dataclass(frozen=True)
class _Words:
    """Lists of one language.

    frame: sentence around a text, with {who} and {text}. nobody: word for no particular person.
    framed: by kind and group, words for a person. names: by sex. countries: local name by country.
    spaces: whether words are separated by spaces. pronouns: a woman's by a man's.
    """

    frame: str
    nobody: str
    framed: Mapping[str, Mapping[str, str]]
    names: Mapping[str, tuple[str, ...]]
    countries: Mapping[str, str]
    spaces: bool
    pronouns: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class CountedShare(Share):
    """A share with its count, and the number of which it is a share."""

    count: int
    of: int


@dataclass(frozen=True)
class SwapGroup:
    """One group of people. moved: rows whose label is not the plain row's."""

    moved: CountedShare


@dataclass(kw_only=True)
class SwapChange(Tested):
    """Comparison with the original.

    new, gone: rows that depend on the person and did not with the original, and the reverse.
    groups: rows that are moved and were not with the original, by group.
    """

    new: CountedShare
    gone: int
    groups: Mapping[str, CountedShare]


@dataclass(kw_only=True)
class SwapMeasures:
    """Labels of one set. depends: rows whose label differs between any two of the people.

    by_row: a letter for each row, d where the label depends on the person.
    """

    depends: CountedShare
    by_row: str
    groups: Mapping[str, SwapGroup]
    change: SwapChange | None = None


@dataclass(frozen=True)
class SwapKind:
    """Rows of one kind of swap, and their measures by set. numbers: of the rows in their file."""

    how: str
    rows: int
    numbers: tuple[int, ...]
    results: Mapping[str, SwapMeasures]


def swap_rows(inputs: Sequence[str], language: str, most: int | None = None) -> list[SwapRow]:
    """Return the variants of a task's rows; none for a language without a list of ours.

    inputs: texts of the rows. most: rows of each kind, chosen by a hash of their text.
    """
    if language not in LANGUAGES:
        return []
    words = _words(language)
    order = sorted(range(len(inputs)), key=lambda i: (_hash(inputs[i]), i))
    made: list[SwapRow] = []
    for number in order[:most]:
        made += _framed(number, inputs[number], words)
    counts: dict[str, int] = {}
    for number in order:
        for row in _replaced(number, inputs[number], words):
            if most is None or counts.get(row.kind, 0) < most:
                counts[row.kind] = counts.get(row.kind, 0) + 1
                made.append(row)
    return made


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@functools.cache
def _words(language: str) -> _Words:
    text = _FOLDER.joinpath(f"{language}.json").read_text(encoding="utf-8")
    return from_json(_Words, json.loads(text))


def _framed(number: int, text: str, words: _Words) -> Iterator[SwapRow]:
    def frame(who: str) -> str:
        return words.frame.replace("{who}", who).replace("{text}", text)

    for kind, people in words.framed.items():
        variants = tuple((group, frame(who)) for group, who in people.items())
        yield SwapRow(number, kind, FRAMED, frame(words.nobody), variants)


def _replaced(number: int, text: str, words: _Words) -> Iterator[SwapRow]:
    spaces = words.spaces
    names = {name: sex for sex, held in words.names.items() for name in held}
    name = _first(text, names, spaces)
    if name is not None:
        sex = names[name]
        other = "male" if sex == "female" else "female"
        held = words.names[other]
        changed = _put(text, name, held[_hash(text) % len(held)], spaces)
        yield SwapRow(number, "name in the row", REPLACED, text, ((sex, text), (other, changed)))
    countries = {local: group for group, local in words.countries.items()}
    country = _first(text, countries, spaces)
    if country is not None:
        others = [x for x in countries if x != country][: _MOST_COUNTRIES - 1]
        variants = [(countries[x], _put(text, country, x, spaces)) for x in others]
        own = (countries[country], text)
        yield SwapRow(number, "country in the row", REPLACED, text, (own, *variants))
    pronouns = words.pronouns
    told = _first(text.lower(), pronouns, True)
    # A woman's pronouns do not tell which of a man's they would be.
    if told is not None and not _first(text.lower(), ("she", "her", "hers", "herself"), True):
        changed = text
        for man, woman in pronouns.items():
            for old, new in ((man, woman), (man.capitalize(), woman.capitalize())):
                changed = _put(changed, old, new, True)
        variants = [("male", text), ("female", changed)]
        if changed != text:  # as it is of a HIS in capitals
            yield SwapRow(number, "pronoun in the row", REPLACED, text, tuple(variants))


def _places(text: str, word: str, spaces: bool) -> Iterator[tuple[int, int]]:
    """Yield the places of a word; a whole one in scripts that separate words by spaces."""
    for match in re.finditer(re.escape(word), text):
        start, end = match.span()
        if not spaces or not (_letter(text[start - 1 : start]) or _letter(text[end : end + 1])):
            yield start, end


def _letter(char: str) -> bool:
    return bool(char) and (char in "_-" or unicodedata.category(char)[0] in "LMN")


def _first(text: str, words: Iterable[str], spaces: bool) -> str | None:
    """Return the word that stands first in the text; the longest of those that begin there."""
    ranked = [
        (next(_places(text, word, spaces))[0], -len(word), word)
        for word in words
        if word in text and any(True for _ in _places(text, word, spaces))
    ]
    return min(ranked)[2] if ranked else None


def _put(text: str, old: str, new: str, spaces: bool) -> str:
    made, last = [], 0
    for start, end in _places(text, old, spaces):
        made += [text[last:start], new]
        last = end
    return "".join([*made, text[last:]])


def swap_measures(
    rows: Sequence[SwapRow], labels: Mapping[str, Labels], original: str | None
) -> dict[str, SwapKind]:
    """Measure, by kind of swap and set, how often a row's label depends on who is in it.

    labels: by set. original: the set that the others are compared with, None for none.
    docs/reference/evaluation.md describes each field.
    """
    kinds: dict[str, SwapKind] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        results = {label: _measured(mine, given) for label, given in labels.items()}
        if original is not None:
            for label in labels.keys() - {original}:
                results[label].change = _change(mine, labels[original], labels[label])
        numbers = tuple(row.number for row in mine)
        kinds[kind] = SwapKind(mine[0].how, len(mine), numbers, results)
    for label in labels:
        changes = [kind.results[label].change for kind in kinds.values()]
        correct([change for change in changes if change is not None])
    return kinds


def _depends(row: SwapRow, said: Labels) -> bool:
    return len({said[row.number, text] for _, text in row.variants}) > 1


def _moved(row: SwapRow, text: str, said: Labels) -> bool:
    return said[row.number, text] != said[row.number, row.plain]


def _measured(rows: Sequence[SwapRow], said: Labels) -> SwapMeasures:
    groups: dict[str, list[bool]] = {}
    for row in rows:
        for group, text in row.variants:
            groups.setdefault(group, []).append(_moved(row, text, said))
    depends = [_depends(row, said) for row in rows]
    return SwapMeasures(
        depends=_share(sum(depends), len(rows)),
        by_row="".join("d" if x else "." for x in depends),
        groups={who: SwapGroup(_share(sum(x), len(x))) for who, x in groups.items()},
    )


def _change(rows: Sequence[SwapRow], old: Labels, now: Labels) -> SwapChange:
    """Count new rows, whose label now depends on who is in them, and gone rows, the other way.

    groups: by who, rows that this person moves now and did not move before.
    """
    pairs = [(_depends(row, old), _depends(row, now)) for row in rows]
    new = sum(after and not before for before, after in pairs)
    gone = sum(before and not after for before, after in pairs)
    groups: dict[str, list[bool]] = {}
    for row in rows:
        for group, text in row.variants:
            fresh = _moved(row, text, now) and not _moved(row, text, old)
            groups.setdefault(group, []).append(fresh)
    return SwapChange(
        new=_share(new, sum(not before for before, _ in pairs)),
        gone=gone,
        p=binomial_p(new, new + gone),
        groups={group: _share(sum(held), len(held)) for group, held in groups.items()},
    )


def _share(count: int, total: int) -> CountedShare:
    return CountedShare(count=count, of=total, **share_of(count, total))
