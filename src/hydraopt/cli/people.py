"""Tables of probes and swaps in a result, and notes on what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hydraopt.cli.common import say, show_table
from hydraopt.values import counted

__all__ = ["result_notes", "show_people"]

_ALL: Final = "all"
_CLEAR: Final = 0.05
_MOST_ROWS: Final = 200
_MOST_NAMED: Final = 8
"""Files that were passed by."""


def result_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the scores has to know: adapters that have none, and rows that are left out
    or are longer than the base states.

    result: as of ``hydraopt eval``.
    """
    left_out, swaps, beyond = Counter[str](), 0, 0
    for task in result["tasks"]:
        if "skipped" in task:
            yield f"{task['adapter']} is not scored: {task['skipped']}"
        left_out.update(task.get("left_out_why", {}))
        swaps += sum(task.get("swaps_left_out", {}).values())
        beyond += task.get("beyond_context", 0)
    for why, count in left_out.items():
        yield f"{counted(count, 'row')} left out: {why}"
    if swaps:
        yield f"{counted(swaps, 'swapped row')} left out: longer than the base's context"
    if beyond:
        rows = counted(beyond, "row")
        yield f"{rows} longer than the context that the base states; they are scored as well"


def show_people(result: Mapping[str, Any]) -> None:
    """What changed for which people: each probe as a whole, and those groups that changed clearly.

    result: as of ``hydraopt eval``. Nothing is shown of a result without probes and swaps.
    """
    probes = result.get("probes")
    if probes:
        _show_probes(probes, result["tasks"])
    rows = list(_swap_rows(result["tasks"]))
    if rows:
        _table(
            "swaps: rows whose label depends on who is in them, % [95 %]; new and gone rows "
            "against the original",
            ["adapter", "from", "swapped", "how", "rows", "depends", "new", "gone", "p (Holm)"],
            rows,
        )  # fmt: skip
    for what in ("probes", "swaps"):
        for task in result["tasks"]:
            why = task.get(what, {}).get("skipped")
            if why is not None:
                say(f"{task['adapter']}: no {what}: {why}")


def _show_probes(probes: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> None:
    rows = [
        ["(base)", "base", *_cells(probe, _ALL, groups[_ALL])]
        for probe, groups in probes["base"].items()
    ]
    rows += list(_probe_rows(tasks))
    if rows:
        _table(
            "probes: choices that follow a stereotype, % [95 %] of those that take a side; right "
            "answers, %; flips against the original (towards a stereotype, away from one)",
            ["adapter", "from", "probe", "items", "stereotype", "right", "flips", "p (Holm)",
             "flips to"],
            rows,
        )  # fmt: skip
        say(f"by chance 50 % follow a stereotype; p is corrected by {probes['correction']}")
    if "skipped" in probes:
        say(f"no probe was asked: {probes['skipped']}")
    passed = [f"{x['file']} ({x['why']})" for x in probes["passed_by"]]
    if passed:
        further = len(passed) - _MOST_NAMED
        more = f" and {further:,} further, which --json and -o name" if further > 0 else ""
        say(f"passed by: {', '.join(passed[:_MOST_NAMED])}{more}")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    show_table(title, columns, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS:,} further rows are in --json and -o")


def _probe_rows(tasks: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for task in tasks:
        for probe, by_set in task.get("probes", {}).items():
            if probe == "skipped":
                continue
            for label, groups in by_set.items():
                for group, said in groups.items():
                    clear = said.get("change", {}).get("p_holm", 1.0) < _CLEAR
                    if group == _ALL or clear:
                        yield [task["adapter"], _short(label), *_cells(probe, group, said)]


def _direction(change: Mapping[str, Any]) -> str:
    """Flips to each of two people, where a probe is about two."""
    to = change.get("people", {}).get("to", {})
    return ", ".join(f"{count} {who}" for who, count in to.items()) or "-"


def _cells(probe: str, group: str, said: Mapping[str, Any]) -> list[str]:
    change = said.get("change")
    judged = [said[x] for x in ("ambiguous", "disambiguated") if x in said]
    right = sum(x["accuracy"]["right"] for x in judged)
    return [
        probe if group == _ALL else f"{probe}, {group}",
        f"{said['items']:,}",
        _interval(said["preference"]),
        f"{100 * right / said['items']:.0f}" if judged else "-",
        f"{change['flips']:,} ({change['towards']:,}, {change['away']:,})" if change else "-",
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
    return f"{said['pct']:.0f} [{said['low']:.0f}, {said['high']:.0f}]"


def _short(label: str) -> str:
    return label.removesuffix(".hydra.safetensors")
