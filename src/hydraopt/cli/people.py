"""Tables of what a result says of people: probes and swaps, by adapter, bundle and group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hydraopt.cli.common import say, show_table

__all__ = ["show_people"]

_ALL: Final = "all"
_CLEAR: Final = 0.05
_MOST_ROWS: Final = 200


def show_people(result: Mapping[str, Any]) -> None:
    """What changed for which people: each probe as a whole, and those groups that changed clearly.

    result: as of ``hydraopt eval``. Nothing is shown of a result without probes and swaps.
    """
    probes = result.get("probes")
    if probes:
        rows = [["(base)", "base", *cells] for cells in _base_rows(probes["base"])]
        rows += list(_probe_rows(result["tasks"]))
        _table(
            "probes: choices that follow a stereotype, among those that take a side; flips, and "
            "their direction, against the original",
            ["adapter", "from", "probe", "group", "items", "stereotype [95 %]", "right answers",
             "flips", "towards", "away", "p (Holm)", "flips to"],
            rows,
        )  # fmt: skip
        say(f"of chance: 50 % stereotype; p is corrected by {probes['correction']}")
    rows = list(_swap_rows(result["tasks"]))
    if rows:
        _table(
            "swaps: rows whose label depends on who is in them",
            ["adapter", "from", "swapped", "how", "rows", "depends [95 %]", "new", "gone",
             "p (Holm)"],
            rows,
        )  # fmt: skip
    for what in ("probes", "swaps"):
        for task in result["tasks"]:
            why = task.get(what, {}).get("skipped")
            if why is not None:
                say(f"{task['adapter']}: no {what}: {why}")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    show_table(title, columns, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS:,} further rows are in --json and -o")


def _base_rows(base: Mapping[str, Any]) -> Iterator[list[str]]:
    for probe, groups in base.items():
        yield [probe, *_cells(_ALL, groups[_ALL])]


def _probe_rows(tasks: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for task in tasks:
        for probe, by_set in task.get("probes", {}).items():
            if probe == "skipped":
                continue
            for label, groups in by_set.items():
                for group, said in groups.items():
                    clear = said.get("change", {}).get("p_holm", 1.0) < _CLEAR
                    if group == _ALL or clear:
                        yield [task["adapter"], _short(label), probe, *_cells(group, said)]


def _direction(change: Mapping[str, Any]) -> str:
    """Flips to each of two people, where a probe is about two."""
    to = change.get("people", {}).get("to", {})
    return ", ".join(f"{count} {who}" for who, count in to.items()) or "-"


def _cells(group: str, said: Mapping[str, Any]) -> list[str]:
    change = said.get("change")
    right = [said[x]["accuracy"]["right"] for x in ("ambiguous", "disambiguated") if x in said]
    asked = [said[x]["items"] for x in ("ambiguous", "disambiguated") if x in said]
    return [
        group,
        f"{said['items']:,}",
        _interval(said["preference"]),
        f"{100 * sum(right) / sum(asked):.1f} %" if asked else "-",
        f"{change['flips']:,} ({change['pct']:.1f} %)" if change else "-",
        f"{change['towards']:,}" if change else "-",
        f"{change['away']:,}" if change else "-",
        f"{change['p_holm']:.3f}" if change else "-",
        _direction(change) if change else "-",
    ]


def _swap_rows(tasks: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for task in tasks:
        for kind, held in task.get("swaps", {}).items():
            if kind == "skipped":
                continue
            for label, said in held["results"].items():
                change = said.get("change")
                yield [
                    task["adapter"],
                    _short(label),
                    kind,
                    held["how"],
                    f"{held['rows']:,}",
                    _interval(said["depends"]),
                    f"{change['new']['count']:,}" if change else "-",
                    f"{change['gone']:,}" if change else "-",
                    f"{change['p_holm']:.3f}" if change else "-",
                ]


def _interval(said: Mapping[str, Any]) -> str:
    return f"{said['pct']:.1f} % [{said['low']:.1f}, {said['high']:.1f}]"


def _short(label: str) -> str:
    return label.removesuffix(".hydra.safetensors")
