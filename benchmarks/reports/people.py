"""What merging did to whom: probes and swapped identities, by probe, group and language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.reports.tables import MISSING, table, wrapped
from hydraopt.probes.chance import binomial_p, wilson

__all__ = ["SECTIONS"]

Result = Mapping[str, Any]
CLEAR = 0.05


def _results() -> list[Result]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(QUALITY.glob("*.probes.json"))]


def _people() -> str:
    parts = [_section(result) for result in _results()]
    return "\n".join(parts) or MISSING


def _section(result: Result) -> str:
    made = [
        f"## `{result['collection']}`\n",
        wrapped(_asked(result)),
        "### In plain words\n",
        "".join(_bullet(text) for text in _words(result)),
        "### What the base and the originals prefer\n",
        _preferences(result),
        "### Flips by probe\n",
        wrapped(
            "Choices that are not the original's, in percent of the items; in brackets how many of "
            "them go towards a stereotype, and how many away from one."
        ),
        _flips(result),
        "### Flips by group\n",
        wrapped(
            "All adapters together, groups of ten items or more. Items of one probe are the same "
            "for each adapter, so that no interval is told."
        ),
        _groups(result),
        "### Other people in the rows, by language\n",
        wrapped(
            "Rows whose label depends on who is in them or wrote them, of all kinds of swaps. In "
            "brackets: rows that did not depend on it with the original, and rows that do not any "
            "more."
        ),
        _languages(result),
        "### Other people in the rows, by who\n",
        wrapped(
            "Rows with another label than the plain row, all languages together. In brackets: "
            "those that the original leaves alone."
        ),
        _who(result),
    ]
    return "\n".join(made)


def _entries(result: Result, what: str) -> list[Mapping[str, Any]]:
    return [x for x in result["tasks"] if what in x and "skipped" not in x[what]]


def _labels(result: Result) -> dict[str, str]:
    """What tables call each set, by its label in the result."""
    return {
        label: f"{note['method']} {note['size_pct']:.1f} %"
        for label, note in result["made"].items()
    }


def _asked(result: Result) -> str:
    asked = "; ".join(
        f"{name}, {count} items, of {', '.join(_asked_of(result, name))}"
        for name, count in result["probes"]["items"].items()
    )
    swapped = ", ".join(f"`{x['adapter']}`" for x in _entries(result, "swaps")) or "none"
    sets = ", ".join(_labels(result).values())
    return (
        f"Base `{result['base']['name']}`. Asked: {asked}. People were swapped in "
        f"{result['limits']['swap_rows']} test rows, at most, of each kind, of {swapped}. Merged "
        f"to: {sets} of fp16. Products {result['products']}."
    )


def _asked_of(result: Result, probe: str) -> list[str]:
    return [f"`{x['adapter']}`" for x in _entries(result, "probes") if probe in x["probes"]]


def _bullet(text: str) -> str:
    first, *rest = wrapped(text).splitlines()
    return "".join([f"- {first}\n", *(f"  {line}\n" for line in rest)])


def _words(result: Result) -> Iterator[str]:
    labels = _labels(result)
    for label, name in labels.items():
        flips, towards, away, items = _sums(result, label)
        if items:
            p = binomial_p(towards, towards + away)
            yield (
                f"{name}: {100 * flips / items:.1f} % of the choices flip ({flips} of {items}), "
                f"{towards} towards a stereotype and {away} away from one (p {_p(p)}, uncorrected, "
                "as if adapters were asked different items)."
            )
    yield from _directions(result)
    clear = [
        f"{task['adapter']}, {labels[label]}, {probe}, {group} ({x['towards']} towards, "
        f"{x['away']} away)"
        for task in _entries(result, "probes")
        for probe, by_set in task["probes"].items()
        for label in labels
        for group, x in ((g, y["change"]) for g, y in by_set[label].items())
        if x["p_holm"] < CLEAR
    ]
    clear += [
        f"{task['adapter']}, {labels[label]}, {probe}, pronouns ({_counts(x['to'])})"
        for task in _entries(result, "probes")
        for probe, by_set in task["probes"].items()
        for label in labels
        if (x := by_set[label]["all"]["change"].get("people")) and x["p_holm"] < CLEAR
    ]
    told = "; ".join(clear) if clear else "none"
    yield f"Probes or groups whose flips have a direction after Holm: {told}."
    for label, name in labels.items():
        new, gone, rows, old = _swap_sums(result, label)
        if rows:
            yield (
                f"{name}: of {rows} swapped rows {old + new - gone} have a label that depends on "
                f"who is in them, with the originals {old}: {new} new, {gone} gone (p "
                f"{_p(binomial_p(new, new + gone))}, uncorrected)."
            )


def _directions(result: Result) -> Iterator[str]:
    """Flips to each of two people, of the probes that are about two."""
    for label, name in _labels(result).items():
        sums: dict[str, int] = {}
        for task in _entries(result, "probes"):
            for by_set in task["probes"].values():
                for who, count in (
                    by_set[label]["all"]["change"].get("people", {"to": {}})["to"].items()
                ):
                    sums[who] = sums.get(who, 0) + count
        if sums:
            p = binomial_p(max(sums.values()), sum(sums.values()))
            yield f"{name}: flips of pronouns, {_counts(sums)} (p {_p(p)}, uncorrected)."


def _counts(to: Mapping[str, int]) -> str:
    return ", ".join(f"{count} to a {who} one" for who, count in to.items())


def _sums(result: Result, label: str) -> tuple[int, int, int, int]:
    """(flips, towards, away, items) over all adapters and probes."""
    held = [
        by_set[label]["all"]
        for task in _entries(result, "probes")
        for by_set in task["probes"].values()
    ]
    sums = [sum(x["change"][key] for x in held) for key in ("flips", "towards", "away")]
    return sums[0], sums[1], sums[2], sum(x["items"] for x in held)


def _swap_sums(result: Result, label: str) -> tuple[int, int, int, int]:
    """(new, gone, rows, rows that depended with the original) over all adapters and kinds."""
    held = [
        kind["results"] for task in _entries(result, "swaps") for kind in task["swaps"].values()
    ]
    changes = [x[label]["change"] for x in held]
    return (
        sum(x["new"]["count"] for x in changes),
        sum(x["gone"] for x in changes),
        sum(x[label]["depends"]["of"] for x in held),
        sum(x["original"]["depends"]["count"] for x in held),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _preferences(result: Result) -> str:
    sets = {"base": result["probes"]["base"]}
    for task in _entries(result, "probes"):
        sets[task["adapter"]] = {x: y["original"] for x, y in task["probes"].items()}
    rows = []
    for probe in result["probes"]["items"]:
        for name, said in sets.items():
            if probe not in said:
                continue
            whole = said[probe]["all"]
            mine = whole["preference"]
            right = [whole[x]["accuracy"] for x in ("ambiguous", "disambiguated") if x in whole]
            rows.append(
                [
                    probe,
                    name,
                    f"{mine['pct']:.1f} [{mine['low']:.1f}, {mine['high']:.1f}]",
                    _p(mine["p_holm"]),
                    *(f"{x['pct']:.1f} (p {_p(x['p_holm'])})" for x in right),
                    *["-"] * (2 - len(right)),
                ]
            )
    head = [
        "probe",
        "of",
        "follows the stereotype, % [95 %]; chance 50",
        "p (Holm)",
        "right where open, %; chance 33",
        "right where told, %",
    ]
    return table(head, rows)


def _flips(result: Result) -> str:
    labels = _labels(result)
    rows = []
    for task in _entries(result, "probes"):
        for probe, by_set in task["probes"].items():
            changes = [by_set[label]["all"]["change"] for label in labels]
            rows.append([task["adapter"], probe, *map(_change, changes)])
    return table(["adapter", "probe", *labels.values()], rows)


def _change(said: Mapping[str, Any]) -> str:
    return f"{said['pct']:.1f} ({said['towards']}, {said['away']})"


def _groups(result: Result) -> str:
    labels = _labels(result)
    sums: dict[tuple[str, str], dict[str, list[int]]] = {}
    for task in _entries(result, "probes"):
        for probe, by_set in task["probes"].items():
            for label in labels:
                for group, said in by_set[label].items():
                    if group != "all":
                        mine = sums.setdefault((probe, group), {}).setdefault(label, [0] * 4)
                        change = said["change"]
                        values = (said["items"], *(change[x] for x in ("flips", "towards", "away")))
                        mine[:] = [a + b for a, b in zip(mine, values, strict=True)]
    rows = []
    for (probe, group), held in sums.items():
        cells = [
            f"{100 * flips / items:.1f} ({towards}, {away})"
            for items, flips, towards, away in (held[label] for label in labels)
        ]
        items = next(iter(held.values()))[0] // len(_asked_of(result, probe))
        rows.append([probe, group, str(items), *cells])
    return table(["probe", "group", "items", *labels.values()], rows)


def _languages(result: Result) -> str:
    labels = _labels(result)
    rows = []
    for task in _entries(result, "swaps"):
        kinds = [kind["results"] for kind in task["swaps"].values()]
        total = sum(x["original"]["depends"]["of"] for x in kinds)
        old = sum(x["original"]["depends"]["count"] for x in kinds)
        low, high = (100 * x for x in wilson(old, total))
        cells = []
        for label in labels:
            now = sum(x[label]["depends"]["count"] for x in kinds)
            new, gone = (
                sum(y(x[label]["change"]) for x in kinds)
                for y in (lambda c: c["new"]["count"], lambda c: c["gone"])
            )
            cells.append(f"{100 * now / total:.1f} (+{new}, -{gone})")
        before = f"{100 * old / total:.1f} [{low:.1f}, {high:.1f}]"
        rows.append([task["adapter"], str(total), before, *cells])
    head = ["task", "rows", "original, % [95 %]", *(f"{x}, %" for x in labels.values())]
    return table(head, rows)


def _who(result: Result) -> str:
    labels = _labels(result)
    sums: dict[tuple[str, str], dict[str, list[int]]] = {}
    for task in _entries(result, "swaps"):
        for kind, held in task["swaps"].items():
            for label in ("original", *labels):
                said = held["results"][label]
                for who, moved in said["groups"].items():
                    mine = sums.setdefault((kind, who), {}).setdefault(label, [0, 0, 0])
                    fresh = said.get("change", {"groups": {}})["groups"].get(who, {"count": 0})
                    values = moved["moved"]["of"], moved["moved"]["count"], fresh["count"]
                    mine[:] = [a + b for a, b in zip(mine, values, strict=True)]
    rows = [
        [
            kind,
            who,
            str(held["original"][0]),
            _moved(held["original"])[0],
            *(f"{share} ({fresh})" for share, fresh in (_moved(held[x]) for x in labels)),
        ]
        for (kind, who), held in sums.items()
        if any(moved for _, moved, _ in held.values())
    ]
    head = ["what differs", "who", "rows", "original, %", *(f"{x}, %" for x in labels.values())]
    still = [
        f"{who} ({kind})" for (kind, who), x in sums.items() if not any(y[1] for y in x.values())
    ]
    others = f"Moved by none: {', '.join(still) or 'nobody'}."
    return table(head, rows) + "\n" + wrapped(others)


def _moved(sums: Sequence[int]) -> tuple[str, int]:
    return f"{100 * sums[1] / sums[0]:.1f}", sums[2]


SECTIONS = {"people": _people}
