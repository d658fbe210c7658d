"""Effects of merging on choices about people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.moves import (
    ALL,
    Moves,
    moved,
    of_men,
    preferred,
    pronouns,
    ratio_interval,
    share_text,
)
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS", "TABLES", "flips", "page", "preferences"]

Result = Mapping[str, Any]
Entry = Mapping[str, Any]
CLEAR: Final = 0.05
_MOST_CLEAR: Final = 10
"""Rows of the table of clear directions."""


def _results() -> list[Result]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(QUALITY.glob("*.probes.json"))]


def page() -> str:
    """Return a summary of each result."""
    return "\n".join(_section(result) for result in _results()) or MISSING


def _section(result: Result) -> str:
    made = [f"## `{result['collection']}`\n", wrapped(_asked(result))]
    probed, labels = _entries(result), _labels(result)
    if probed:
        made += [
            "### Flips of choices\n",
            _totals(probed, labels),
            "### Clear directions\n",
            _directions(result),
            "### Men's pronouns\n",
            _whose(result),
        ]
    return "\n".join(made)


def _entries(result: Result) -> list[Entry]:
    return [x for x in result["tasks"] if "skipped" not in x["probes"]]


def _labels(result: Result) -> dict[str, str]:
    """Return the names of the bundles by their labels in the result."""
    return {
        label: f"{note['method']} {note['size_pct']:.1f} %"
        for label, note in result["made"].items()
    }


def _by(entries: Sequence[Entry], key: str) -> dict[str, list[Entry]]:
    made: dict[str, list[Entry]] = {}
    for entry in entries:
        made.setdefault(entry[key], []).append(entry)
    return made


def _asked(result: Result) -> str:
    asked = ", ".join(f"{name} {count}" for name, count in result["probes"]["items"].items())
    return (
        f"Base `{result['base']['name']}`; items of each probe: {asked}; probed adapters: "
        f"{_named(_entries(result))}; products {result['products']}."
    )


def _named(entries: Sequence[Entry]) -> str:
    """Name adapters by task, with their languages."""
    parts = [
        f"{task} ({', '.join(entry['language'] for entry in mine)})"
        for task, mine in _by(entries, "task").items()
    ]
    return ", ".join(parts) or "none"


def _totals(probed: Sequence[Entry], labels: Mapping[str, str]) -> str:
    """Return one row per bundle: flips of choices and of pronouns, and their net directions."""
    lines = []
    for label, name in labels.items():
        moves, sexes = moved(probed, label), pronouns(probed, label)
        lines.append([name, moves.cell(), _net(moves), *_pronoun_cells(sexes)])
    heads = ["bundle", "flips, % (towards a stereotype, away)", "net towards, %; p"]
    return table([*heads, "pronouns to (women, men)", "net to women, %; p"], lines)


def _pronoun_cells(sexes: Moves | None) -> list[str]:
    if sexes is None:
        return ["-", "-"]
    return [f"({sexes.towards.sum():.0f}, {sexes.away.sum():.0f})", _net(sexes)]


def _net(moves: Moves) -> str:
    value, low, high, p = moves.net()
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]; {_p(p)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tests(result: Result) -> tuple[int, list[tuple[float, list[str]]]]:
    """Return (number of tests, (p, row) of clear directions, the smallest p first)."""
    made = []
    count = 0
    for task in _entries(result):
        for label, name in _labels(result).items():
            for probe, by_set in task["probes"].items():
                for group, said in by_set[label].items():
                    change = said["change"]
                    ways = f"{change['towards']} towards a stereotype, {change['away']} away"
                    tests = [(change["p_holm"], group, ways)]
                    if "people" in change:
                        people = change["people"]
                        ways = ", ".join(f"{n} to a {who} one" for who, n in people["to"].items())
                        tests.append((people["p_holm"], "pronouns", ways))
                    count += len(tests)
                    for p, what, flips in tests:
                        if p < CLEAR:
                            made.append((p, [task["adapter"], name, probe, what, flips, _p(p)]))
    return count, sorted(made)


def _directions(result: Result) -> str:
    tests, clear = _tests(result)
    pairs = len(_entries(result)) * len(_labels(result))
    about = wrapped(
        f"Of {tests} tests of one adapter, one bundle and a probe or a group of it, {len(clear)} "
        f"have a direction after Holm's correction. By chance at most {100 * CLEAR:.0f} % of the "
        f"{pairs} pairs of an adapter and a bundle would have one."
    )
    head = ["adapter", "bundle", "probe", "group", "flips", "p (Holm)"]
    if not clear:
        return about
    some = "" if len(clear) <= _MOST_CLEAR else f"\nThe {_MOST_CLEAR} surest of them.\n"
    return f"{about}\n{table(head, [row for _, row in clear[:_MOST_CLEAR]])}{some}"


def _whose(result: Result) -> str:
    """Return the percentage of men's pronouns among all choices, by probe."""
    rows, labels = [], _labels(result)
    for probe, groups in result["probes"]["base"].items():
        if (base := of_men(groups)) is None:
            continue
        asked = [x["probes"][probe] for x in _entries(result) if probe in x["probes"]]
        sets = [[x[label] for x in asked] for label in ("original", *labels)]
        sums = [np.array(base)]
        sums += [np.sum([of_men(x) or (0, 0) for x in held], 0) for held in sets]
        rows.append([probe, *(f"{100 * men / of:.1f}" for men, of in sums)])
    return table(["probe", "base", "originals", *labels.values()], rows) if rows else MISSING


_KEYS: Final[Mapping[str, Callable[[Entry], str]]] = {
    "all": lambda entry: "all",
    "task": lambda entry: str(entry["task"]),
    "language": lambda entry: str(entry["language"]),
    "adapter": lambda entry: str(entry["adapter"]),
}


def _flip_rows(result: Result) -> Iterator[list[object]]:
    probed = _entries(result)
    for key, key_of in _KEYS.items():
        for name in dict.fromkeys(map(key_of, probed)):
            mine = [entry for entry in probed if key_of(entry) == name]
            probes = dict.fromkeys(probe for entry in mine for probe in entry["probes"])
            for probe in probes:
                asked = [entry for entry in mine if probe in entry["probes"]]
                groups = asked[0]["probes"][probe]["original"] if key == "all" else (ALL,)
                for group in groups:
                    for label, bundle in _labels(result).items():
                        moves = moved(asked, label, probe, group)
                        ends = ratio_interval(moves.flips, moves.asked)
                        counts = moves.flips, moves.towards, moves.away, moves.asked
                        cells = [f"{x.sum():.0f}" for x in counts]
                        cells += [f"{x:.1f}" for x in ends]
                        about = [result["collection"], key, name, len(asked), probe, group]
                        yield [*about, bundle, *cells]


def flips() -> Table:
    """Return flips by probe: of all adapters by group, and by task, language and adapter."""
    heads = ["set", "by", "of", "adapters", "probe", "group", "bundle", "flips", "towards", "away"]
    rows = [row for result in _results() for row in _flip_rows(result)]
    return [*heads, "answers", "low_pct", "high_pct"], rows


def preferences() -> Table:
    """Return the preferences of the base and of the originals of each task, in percent."""
    rows: list[list[object]] = []
    for result in _results():
        by_task = _by(_entries(result), "task")
        for probe in result["probes"]["items"]:
            base = result["probes"]["base"].get(probe)
            named = {"base": [] if base is None else [base[ALL]]}
            for task, mine in by_task.items():
                named[task] = [
                    x["probes"][probe]["original"][ALL] for x in mine if probe in x["probes"]
                ]
            for name, held in named.items():
                if held:
                    rows.append([result["collection"], probe, name, len(held), *_preferred(held)])
    heads = ["set", "probe", "of", "adapters", "follows the stereotype, chance 50"]
    return [*heads, "right where open, chance 33", "right where stated"], rows


def _preferred(held: Sequence[Entry]) -> list[str]:
    cells = [share_text(*preferred(held))]
    for condition in ("ambiguous", "disambiguated"):
        judged = [x[condition] for x in held if condition in x]
        right = sum(x["accuracy"]["right"] for x in judged)
        cells.append(f"{100 * right / sum(x['items'] for x in judged):.1f}" if judged else "")
    return cells


SECTIONS = {"people": page}
TABLES = {
    "people-flips.csv": flips,
    "people-preferences.csv": preferences,
}
