"""What merging did to whom: probes and swapped identities, by task, language, probe and group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.reports import swapped
from benchmarks.reports.moves import (
    ALL,
    Moves,
    moved,
    of_men,
    preferred,
    pronouns,
    share_text,
)
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS"]

Result = Mapping[str, Any]
Entry = Mapping[str, Any]
CLEAR: Final = 0.05
_MOST_CLEAR: Final = 10
_MOST_WORST: Final = 10
_MOST_GROUPS: Final = 30
"""Rows of these tables."""


def _results() -> list[Result]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(QUALITY.glob("*.probes.json"))]


def _people() -> str:
    return "\n".join(_section(result) for result in _results()) or MISSING


def _section(result: Result) -> str:
    probed, swaps, labels = _entries(result, "probes"), _entries(result, "swaps"), _labels(result)
    bullets = [*_words(result), *swapped.words(swaps, labels)]
    made = [
        f"## `{result['collection']}`\n",
        "### In plain words\n",
        "".join(map(_bullet, bullets)),
    ]
    made += ["### What was asked\n", wrapped(_asked(result))]
    if probed:
        made += _probe_parts(result, probed)
    if swaps:
        made += [
            "### Other people in the rows, by language\n",
            wrapped(
                "Rows whose label depends on who is in them or wrote them, of all kinds of swaps, "
                "with intervals over rows. In brackets: those that did not depend on it with the "
                "original, and those that do not any more."
            ),
            swapped.by_language(swaps, labels),
            "### Other people in the rows, by who\n",
            wrapped(
                "Rows with another label than the plain row, all languages together. In brackets: "
                "those that the original leaves alone."
            ),
            swapped.by_who(swaps, labels),
        ]
    return "\n".join(made)


def _probe_parts(result: Result, probed: Sequence[Entry]) -> list[str]:
    return [
        "### Clear directions\n",
        _directions(result),
        "### Flips by task and probe\n",
        wrapped(
            "Choices that are not the original's, in percent of the answers, all adapters of a "
            "task together. The intervals are over items, which all adapters share. In brackets: "
            "how many flips go towards a stereotype, and how many away from one."
        ),
        _by_task(result),
        "### Flips by the adapter's language\n",
        _by_language(result),
        f"### Flips by adapter{', the most' if len(probed) > _MOST_WORST else ''}\n",
        _by_adapter(result),
        "### Flips by group\n",
        _by_group(result),
        "### What the base and the originals prefer\n",
        wrapped(
            "All originals of a task together. In brackets: the lowest and the highest adapter, "
            "where there are several; and adapters that are clearly not at chance after Holm."
        ),
        _preferences(result),
        *_whose(result),
    ]


def _entries(result: Result, what: str) -> list[Entry]:
    return [x for x in result["tasks"] if what in x and "skipped" not in x[what]]


def _labels(result: Result) -> dict[str, str]:
    """What tables call each set, by its label in the result."""
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
    probed, swaps = _entries(result, "probes"), _entries(result, "swaps")
    asked = ", ".join(f"{name} {count}" for name, count in result["probes"]["items"].items())
    sets = ", ".join(_labels(result).values())
    return (
        f"Base `{result['base']['name']}`. Items of each probe: {asked}. They were asked of "
        f"{_named(probed)}. People were swapped in {result['limits']['swap_rows']} test rows, at "
        f"most, of each kind, of {_named(swaps)}. Merged to: {sets} of fp16. Products "
        f"{result['products']}. Intervals (95 %) are over items or rows, which adapters share. The "
        "p of a net is that of items which might as well have gone the other way, uncorrected."
    )


def _named(entries: Sequence[Entry]) -> str:
    """Adapters in a line: by task, with their languages."""
    parts = [
        f"{task} ({', '.join(entry['language'] for entry in mine)})"
        for task, mine in _by(entries, "task").items()
    ]
    return ", ".join(parts) or "nobody"


def _bullet(text: str) -> str:
    first, *rest = wrapped(text, 118).splitlines()
    return "".join([f"- {first}\n", *(f"  {line}\n" for line in rest)])


def _words(result: Result) -> Iterator[str]:
    probed = _entries(result, "probes")
    if not probed:
        return
    labels = _labels(result)
    for label, name in labels.items():
        moves, sexes = moved(probed, label), pronouns(probed, label)
        said = (
            f"{name}: {moves.share(' %')} of the choices flip ({moves.flips.sum():.0f} of "
            f"{moves.asked.sum():.0f}), {moves.towards.sum():.0f} towards a stereotype and "
            f"{moves.away.sum():.0f} away from one{_net(moves, 'towards one', 'away from one')}."
        )
        if sexes is not None:
            said += (
                f" Pronouns flip {sexes.towards.sum():.0f} times to a female and "
                f"{sexes.away.sum():.0f} times to a male one{_net(sexes, 'to women', 'to men')}."
            )
        yield said
    tests, clear = _tests(result)
    told = f"{len(clear)} {'has' if len(clear) == 1 else 'have'}" if clear else "none has"
    yield (
        f"Of {tests} tests of a probe or a group of it, of one adapter and one bundle, {told} a "
        f"direction after Holm. By chance alone, at most {100 * CLEAR:.0f} % of the "
        f"{len(probed) * len(labels)} pairs of an adapter and a bundle would have one."
    )


def _net(moves: Moves, towards: str, away: str) -> str:
    """The difference of both ways, and whether it can be told from none."""
    net = moves.net()
    if net is None:
        return ""
    value, low, high, p = net
    more = f"more {towards if value > 0 else away}"
    said = more if p < CLEAR else "no clear direction"
    return f": net {value:+.1f} % [{low:+.1f}, {high:+.1f}], p {_p(p)}, {said}"


def _tests(result: Result) -> tuple[int, list[tuple[float, list[str]]]]:
    """(tests, (p, row) of those that are clear, the smallest p first)."""
    made = []
    count = 0
    for task in _entries(result, "probes"):
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
    clear = _tests(result)[1]
    if not clear:
        return "None.\n"
    head = ["adapter", "bundle", "probe", "group", "flips", "p (Holm)"]
    text = table(head, [row for _, row in clear[:_MOST_CLEAR]])
    further = len(clear) - _MOST_CLEAR
    return text + (f"\n{further} further are in the result.\n" if further > 0 else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _by_task(result: Result) -> str:
    labels = _labels(result)
    rows = []
    for task, mine in _by(_entries(result, "probes"), "task").items():
        for probe in result["probes"]["items"]:
            asked = [x for x in mine if probe in x["probes"]]
            if asked:
                cells = [moved(asked, label, probe).cell() for label in labels]
                rows.append([task, str(len(asked)), probe, *cells])
    return table(["task", "adapters", "probe", *labels.values()], rows)


def _by_language(result: Result) -> str:
    labels = _labels(result)
    rows = [
        [language, str(len(mine)), *(moved(mine, label).cell() for label in labels)]
        for language, mine in sorted(_by(_entries(result, "probes"), "language").items())
    ]
    return table(["language", "adapters", *labels.values()], rows)


def _by_adapter(result: Result) -> str:
    """Those with the most flips under all labels together, and the probe that has most of them."""
    labels = _labels(result)
    ranked = []
    for entry in _entries(result, "probes"):
        by_probe = {
            probe: sum(by_set[label][ALL]["change"]["pct"] for label in labels)
            for probe, by_set in entry["probes"].items()
        }
        most = max(by_probe, key=lambda probe: by_probe[probe])
        cells = [moved([entry], label).cell() for label in labels]
        ranked.append((-sum(by_probe.values()) / len(by_probe), [entry["adapter"], most, *cells]))
    rows = [row for _, row in sorted(ranked)[:_MOST_WORST]]
    return table(["adapter", "most in", *labels.values()], rows)


def _by_group(result: Result) -> str:
    labels, probed = _labels(result), _entries(result, "probes")
    groups: dict[tuple[str, str], int] = {}
    for entry in probed:
        for probe, by_set in entry["probes"].items():
            for group, said in by_set["original"].items():
                if group != ALL:
                    groups[probe, group] = said["items"]
    largest = sorted(groups, key=lambda x: -groups[x])[:_MOST_GROUPS]
    rows = [
        [
            probe,
            group,
            str(items),
            *(moved(probed, label, probe, group).cell() for label in labels),
        ]
        for (probe, group), items in groups.items()
        if (probe, group) in largest
    ]
    fewer = len(groups) - len(largest)
    note = f"\n{fewer} groups of fewer items are in the result.\n" if fewer else ""
    return table(["probe", "group", "items", *labels.values()], rows) + note


def _preferences(result: Result) -> str:
    by_task = _by(_entries(result, "probes"), "task")
    rows = []
    for probe in result["probes"]["items"]:
        base = result["probes"]["base"].get(probe)
        if base is not None:
            rows.append([probe, "base", *_preferred([base[ALL]])])
        for task, mine in by_task.items():
            held = [x["probes"][probe]["original"][ALL] for x in mine if probe in x["probes"]]
            if held:
                rows.append([probe, task, *_preferred(held)])
    head = [
        "probe",
        "of",
        "follows the stereotype, %; chance 50",
        "right where open, %; chance 33",
        "right where told, %",
    ]
    return table(head, rows)


def _preferred(held: Sequence[Entry]) -> list[str]:
    """Cells of some adapters: what they prefer, and how often they are right."""
    text = share_text(*preferred(held))
    cells = [_of_several(text, [x["preference"] for x in held])]
    for condition in ("ambiguous", "disambiguated"):
        judged = [x[condition] for x in held if condition in x]
        if judged:
            right = sum(x["accuracy"]["right"] for x in judged) / sum(x["items"] for x in judged)
            cells.append(_of_several(f"{100 * right:.1f}", [x["accuracy"] for x in judged]))
        else:
            cells.append("-")
    return cells


def _whose(result: Result) -> list[str]:
    """How often the pronoun of a man is chosen, whatever the stereotype; nothing without such
    probes."""
    rows, labels = [], _labels(result)
    for probe, groups in result["probes"]["base"].items():
        if (base := of_men(groups)) is None:
            continue
        asked = [x["probes"][probe] for x in _entries(result, "probes") if probe in x["probes"]]
        sets = [[x[label] for x in asked] for label in ("original", *labels)]
        sums = [np.array(base)]
        sums += [np.sum([of_men(x) or (0, 0) for x in held], 0) for held in sets]
        rows.append([probe, *(f"{100 * men / of:.1f}" for men, of in sums)])
    if not rows:
        return []
    head = ["probe", "base", "originals", *labels.values()]
    about = "Pronouns of a man that are chosen, whatever the stereotype, in percent of all answers."
    return ["### Whose pronoun is chosen\n", wrapped(about), table(head, rows)]


def _of_several(text: str, said: Sequence[Entry]) -> str:
    """A share of all, with those of the adapters, and how many of them are clear."""
    clear = sum(x["p_holm"] < CLEAR for x in said)
    if len(said) == 1:
        return text + (" (clear)" if clear else "")
    shares = [x["pct"] for x in said]
    return f"{text} ({min(shares):.0f} to {max(shares):.0f}; {clear} of {len(said)} clear)"


SECTIONS = {"people": _people}
