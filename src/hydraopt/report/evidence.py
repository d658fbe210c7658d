"""Results of ``hydraopt eval`` for one bundle: scores, answers, effects on people.

A result is a file from anybody, so a row is left out if it contains an invalid number.

A result may come from anybody: each value is checked where it is used, and an invalid number is
left out.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hydraopt.bundle import Bundle
from hydraopt.errors import UsageError, explain
from hydraopt.files import file_hash, read_regular
from hydraopt.notes import Note
from hydraopt.report.data import Example, Judged, PeopleRow, SizeRow, shown_name

_MOST: Final = 1 << 53
"""Whole numbers from here on are not exact in the page's script."""


def finite(value: Any) -> float | None:
    """Return the number as a float; None if it is not a number, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return number if math.isfinite(number) else None


def counted(value: Any) -> int | None:
    """Return the count; None if it is not a count."""
    return value if type(value) is int and 0 <= value < _MOST else None


_PIECE: Final = re.compile(
    # Scripts without spaces are compared letter by letter, all others word by word.
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u0e00-\u0eff\u3040-\u30ff"
    r"\u3400-\u9fff\uac00-\ud7af]+|\s+|.",
    re.DOTALL,
)
_MOST_PIECES: Final = 600
"""Maximum number of pieces that are compared; the rest of a longer answer counts as different."""


def marked(original: str, bundle: str) -> tuple[tuple[str, str], ...]:
    """Split the answers into pieces (kind, text).

    Kinds are "same", "removed" (only in the original) and "added" (only in the bundle). All pieces
    but the added ones, joined, are the original; all but the removed ones are the bundle's.

    >>> marked("1 May 2011", "1 June 2011")
    (('same', '1 '), ('removed', 'May'), ('added', 'June'), ('same', ' 2011'))
    """
    one, two = (_pieces(text) for text in (original, bundle))
    made: list[tuple[str, str]] = []

    def add(kind: str, pieces: list[str]) -> None:
        if pieces:
            made.append((kind, "".join(pieces)))

    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            add("same", one[a:b])
        else:
            add("removed", one[a:b])
            add("added", two[c:d])
    return tuple(made)


def _pieces(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    rest = "".join(pieces[_MOST_PIECES:])
    return [*pieces[:_MOST_PIECES], rest] if rest else pieces


MOST_PEOPLE: Final = 2000
"""Maximum number of rows on a page."""
CLEAR: Final = 0.05
"""Corrected p below which a change has a direction."""
_ALL: Final = "all"
_WRONG: Final = (KeyError, TypeError, ValueError, AttributeError)


def people_rows(task: Mapping[str, Any], mine: str) -> Iterator[PeopleRow]:
    """Yield the rows of one task of a result: each probe as a whole, then its groups.

    mine: label of the bundle in the result.
    """
    for probe, by_set in _probe_items(task.get("probes")):
        own = by_set.get(mine) if isinstance(by_set, dict) else None
        for group, said in sorted(_probe_items(own), key=lambda x: (x[0] != _ALL, x[0])):
            with suppress(*_WRONG):
                yield _people_row(task, probe, group, said, by_set.get("original"))


def _people_row(
    task: Mapping[str, Any],
    probe: str,
    group: str,
    said: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> PeopleRow:
    change, now = said["change"], said["preference"]
    return PeopleRow(
        task=str(task["adapter"]),
        probe=probe,
        group="" if group == _ALL else group,
        items=_probe_count(said["items"]),
        before=None if before is None else _share(before[group]["preference"]["pct"]),
        now=_share(now["pct"]),
        low=_share(now["low"]),
        high=_share(now["high"]),
        flips=_probe_count(change["flips"]),
        towards=_probe_count(change["towards"]),
        away=_probe_count(change["away"]),
        p=_number(change["p_holm"]),
    )


def _probe_items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _number(value: Any) -> float:
    number = finite(value)
    if number is None:
        raise ValueError
    return number


def _share(percent: Any) -> float:
    return _number(percent) / 100


def _probe_count(value: Any) -> int:
    count = counted(value)
    if count is None:
        raise ValueError
    return count


_SCHEMA: Final = "hydraopt.eval/1"
_MOST_BYTES: Final = 256 << 20
_MOST_EXAMPLES: Final = 40
"""Maximum number of examples per task."""
_MOST_TEXT: Final = 2000
"""Maximum characters of a text that are shown."""


@dataclass
class Evidence:
    """Evidence from result files.

    judged, where: by task.
    examples: by task, those that change first.
    other_sizes: sizes of other bundles of the same tasks.
    people: by task.
    origin: (what, text) lines that describe how they were measured.
    notes: parts of the results that do not fit.
    """

    judged: dict[str, Judged] = field(default_factory=dict)
    where: dict[str, tuple[str, str]] = field(default_factory=dict)
    examples: dict[str, tuple[Example, ...]] = field(default_factory=dict)
    other_sizes: list[SizeRow] = field(default_factory=list)
    people: dict[str, tuple[PeopleRow, ...]] = field(default_factory=dict)
    origin: list[tuple[str, str]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def hash_of(bundle: Bundle) -> str | None:
    """Return the SHA-256 by which results name a bundle; None unless it is one local file."""
    path = bundle.path
    return file_hash(path) if isinstance(path, Path) and path.is_file() else None


def read_evidence(bundle: Bundle, results: Iterable[str | os.PathLike[str]]) -> Evidence:
    """Read from the files the results of ``bundle``, named there by its hash; later files win.

    Raises UsageError for a file that is no result, and for one without any task of the bundle.
    """
    evidence, files = Evidence(), list(results)
    digest = hash_of(bundle) if files else None
    for path in files:
        result = _read(path)
        mine = _label(result, digest)
        tasks = [
            x
            for x in _dicts(result.get("tasks"))
            if isinstance(x.get("adapter"), str) and x["adapter"] in bundle
        ]
        if not tasks:
            raise UsageError(
                explain("the result has no task of the bundle", file=path, do="Leave it out")
            )
        name = shown_name(Path(path).name)
        if mine is None:
            text = (
                f"{name} was made with other files than this bundle: its scores are shown as other "
                "sizes alone."
            )
            evidence.notes.append(Note("other_files", text, name))
        for task in tasks:
            _take(evidence, task, mine)
            if mine is not None:
                people = tuple(people_rows(task, mine))
                if people:
                    evidence.people[str(task["adapter"])] = people
        evidence.other_sizes += _sizes(result, tasks, mine)
        evidence.origin.append((f"result {name}", _origin(result, tasks)))
    return evidence


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(read_regular(path, _MOST_BYTES).decode("utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except (ValueError, RecursionError) as error:
        raise UsageError(explain("the result is no JSON", file=path, got=str(error))) from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != _SCHEMA:
        raise UsageError(
            explain(
                "the file is no result of hydraopt eval",
                file=path,
                got=f"schema {schema!r}",
                expected=_SCHEMA,
                do="Make one: hydraopt eval ADAPTERS BUNDLE ... -o FILE.json",
            )
        )
    return dict(value)


def _label(result: Mapping[str, Any], digest: str | None) -> str | None:
    """Return the bundle's label in the result, found by its hash."""
    for name, said in _items(result.get("bundles")):
        if digest is not None and isinstance(said, dict) and said.get("sha256") == digest:
            return name
    return None


def _take(evidence: Evidence, task: Mapping[str, Any], mine: str | None) -> None:
    """Add to the evidence a task's language, and the scores and answers of this bundle."""
    name = str(task["adapter"])
    said = task.get("task"), task.get("language")
    if all(isinstance(x, str) for x in said):
        evidence.where[name] = str(said[0]), str(said[1])
    results = task.get("results")
    if mine is None or not isinstance(results, dict) or not isinstance(results.get(mine), dict):
        return  # also where probes alone were asked
    evidence.judged[name] = _judged(task, results, mine)
    rows = [_example(name, row, mine) for row in _dicts(task.get("answers"))]
    if rows:
        rows.sort(key=lambda x: (not x.changed, x.row))
        evidence.examples[name] = tuple(rows[:_MOST_EXAMPLES])


def _judged(task: Mapping[str, Any], results: Mapping[str, Any], mine: str) -> Judged:
    metric, own = str(task.get("metric", "")), results[mine]

    def score(who: str) -> float | None:
        return finite(_of(_of(results, who), "scores").get(metric))

    change = _of(_of(own, "difference"), metric)
    rows, changed = _count(task.get("rows")), own.get("changed")
    known = type(changed) is int and 0 <= changed <= rows
    return Judged(
        rows=rows,
        metric=metric,
        base=score("base"),
        original=score("original"),
        bundle=score(mine),
        difference=finite(change.get("difference")),
        low=finite(change.get("low")),
        high=finite(change.get("high")),
        deviation=finite(change.get("deviation")),
        changed=changed if known else None,
        kl=finite(own.get("kl_answer")),
    )


def _example(task: str, row: Mapping[str, Any], mine: str) -> Example:
    texts, changed = _of(row, "texts"), row.get("changed")
    base, original, own = (_text(texts.get(x)) for x in ("base", "original", mine))
    pieces = marked(original, own) if original is not None and own is not None else ()
    told = isinstance(changed, list) and mine in changed
    return Example(
        task,
        _count(row.get("row")),
        _text(row.get("input")) or "",
        _text(row.get("expected")) or "",
        base,
        original,
        own,
        told or any(kind != "same" for kind, _ in pieces),
        pieces,
    )


def _sizes(
    result: Mapping[str, Any], tasks: list[Mapping[str, Any]], mine: str | None
) -> Iterator[SizeRow]:
    """Yield the other bundles of a result, with means over its tasks and the worst of them."""
    for label, said in _items(result.get("bundles")):
        size = _count(said.get("bytes")) if isinstance(said, dict) else 0
        if label == mine or not size:
            continue
        values = measured(tasks, label)
        if values:
            text = f"{label.removesuffix('.hydra.safetensors')}, scored on {len(tasks)} tasks"
            yield SizeRow("measured", text, size, values)


def measured(tasks: Iterable[Mapping[str, Any]], label: str) -> dict[str, tuple[float, float, str]]:
    """Return, by measure, (mean, worst, worst task) of the scores of one bundle."""
    numbers: dict[str, dict[str, float]] = {"changed": {}, "kl": {}, "drop": {}}
    for task in tasks:
        own = _of(_of(task, "results"), label)
        change = _of(_of(own, "difference"), str(task.get("metric")))
        pairs = (
            ("changed", finite(own.get("changed_pct")), 0.01),
            ("kl", finite(own.get("kl_answer")), 1.0),
            ("drop", finite(change.get("difference")), -1.0),
        )
        for key, value, scale in pairs:
            if value is not None:
                numbers[key][str(task["adapter"])] = scale * value
    made = {}
    for key, by_task in numbers.items():
        if by_task:
            worst = max(by_task, key=lambda name: by_task[name])
            made[key] = sum(by_task.values()) / len(by_task), by_task[worst], worst
    return made


def _origin(result: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> str:
    """Describe in one line how the result was measured."""
    base, limits = _of(result, "base"), _of(result, "limits")
    rows = sum(_count(task.get("rows")) for task in tasks)
    said = [f"{rows:,} rows of {len(tasks)} tasks, split {result.get('split')}"]
    said += [f"base {base.get('name')}, weights {str(base.get('sha256'))[:16]}"]
    said += [f"at most {value} {key}" for key, value in limits.items() if value is not None]
    said += [f"products {result.get('products')}"]
    said += [f"{key} {value}" for key, value in sorted(_of(result, "versions").items())]
    return "; ".join(said)


def _of(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return counted(value) or 0


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]} [cut]"
