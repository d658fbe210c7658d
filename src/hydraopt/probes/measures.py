"""Measure preferences of a model, and their changes by merging, from log-likelihoods.

Shares are in percent, intervals of 95 %. Every p is two-sided and exact, or approximate for the
accuracy on items with different numbers of sides. ``p_holm`` is corrected by Holm over all tests of
one set of factors in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.probes.chance import Share, Tested, binomial_p, correct, share_of
from hydraopt.probes.items import CONDITIONS, ProbeItem

__all__ = ["ALL", "LEAST", "GroupMeasures", "Preferences", "probe_measures"]

ALL: Final = "all"
LEAST: Final = 10
"""Minimum number of items of a group that is reported."""
_LEAN: Final = {"stereotype": 1, "against": -1}

Numbers = NDArray[np.float64]
Choices = NDArray[np.int64]


@dataclass(kw_only=True)
class TestedShare(Share, Tested):
    """A share, and its test against chance."""


@dataclass(kw_only=True)
class Accuracy(TestedShare):
    """Share of right answers. right: their number."""

    right: int


@dataclass(frozen=True)
class ConditionMeasures:
    """Answers to items whose text determines the answer, or does not."""

    items: int
    accuracy: Accuracy


@dataclass(kw_only=True)
class PeopleFlips(Tested):
    """Flips to each of two people, whatever the stereotype.

    to: their number by person. items: a letter for each item, a dot where nothing flips.
    """

    to: Mapping[str, int]
    items: str


@dataclass(kw_only=True)
class ChoiceChange(TestedShare):
    """Comparison of choices with the original's. The share is that of flips, p of its direction.

    towards, away: flips towards the stereotype and away from it.
    """

    flips: int
    towards: int
    away: int
    people: PeopleFlips | None = None


@dataclass(kw_only=True)
class GroupMeasures:
    """Preferences in one group of items.

    choices: a letter for each item, of the role of the preferred side.
    stereotype, against, unknown: number of choices of each role.
    """

    items: int
    choices: str
    stereotype: int
    against: int
    unknown: int
    preference: TestedShare
    ambiguous: ConditionMeasures | None = None
    disambiguated: ConditionMeasures | None = None
    change: ChoiceChange | None = None

    def tests(self) -> list[Tested]:
        """Return the tests that are corrected together, changes aside."""
        judged = [x.accuracy for x in (self.ambiguous, self.disambiguated) if x is not None]
        return [self.preference, *judged]


Preferences = Mapping[str, Mapping[str, GroupMeasures]]
"""Measures of one set of factors, by probe and group."""


def probe_measures(
    items: Mapping[str, Sequence[ProbeItem]],
    scores: Mapping[str, Sequence[Numbers]],
    original: Mapping[str, Sequence[Numbers]] | None = None,
) -> dict[str, dict[str, GroupMeasures]]:
    """Measure the preferences of one set of factors, and their changes, by probe and group.

    items: by probe.
    scores: by probe and item, log P of each side in nats.
    original: scores of the original adapter, None for itself and for the base.

    A group is "KIND: NAME", or ALL. docs/reference/evaluation.md describes each field.
    """
    measures: dict[str, dict[str, GroupMeasures]] = {}
    for probe, mine in items.items():
        now = _Answers.of_scores(mine, scores[probe])
        before = _Answers.of_scores(mine, original[probe]) if original is not None else None
        measures[probe] = {}
        for group, where in _groups(mine).items():
            row = now.only(where).measured()
            if before is not None:
                people = _people(before, now) if group == ALL else None
                row.change = _change(before.only(where), now.only(where), people)
            measures[probe][group] = row
    rows = [row for groups in measures.values() for row in groups.values()]
    correct([test for row in rows for test in row.tests()])
    changes = [row.change for row in rows if row.change is not None]
    correct([test for x in changes for test in (x, x.people) if test is not None])
    return measures


def _groups(items: Sequence[ProbeItem]) -> dict[str, list[int]]:
    """Return the indices of the items of each group that is large enough, ALL first."""
    made: dict[str, list[int]] = {ALL: list(range(len(items)))}
    for i, item in enumerate(items):
        for kind, name in item.groups.items():
            made.setdefault(f"{kind}: {name}", []).append(i)
    whole = made.pop(ALL)
    kept = {name: held for name, held in sorted(made.items()) if LEAST <= len(held) < len(items)}
    return {ALL: whole, **kept}


@dataclass(frozen=True)
class _Answers:
    """Chosen sides: for each item the side of the largest log-likelihood, the first if equal.

    choice (items,): index of the side.
    """

    items: Sequence[ProbeItem]
    choice: Choices

    @classmethod
    def of_scores(cls, items: Sequence[ProbeItem], scores: Sequence[Numbers]) -> _Answers:
        """Return the choices. scores: by item, log P of each side."""
        scaled = [s / np.array(item.sizes) for item, s in zip(items, scores, strict=True)]
        return cls(items, np.array([int(x.argmax()) for x in scaled], np.int64))

    @property
    def roles(self) -> list[str]:
        """Roles of the chosen sides."""
        return [x.sides[k].role for x, k in zip(self.items, self.choice.tolist(), strict=True)]

    @property
    def lean(self) -> Numbers:
        """1 where the choice follows a stereotype, -1 where it goes against one, otherwise 0."""
        return np.array([_LEAN.get(role, 0) for role in self.roles], float)

    def only(self, where: Sequence[int]) -> _Answers:
        """Return the answers of some items."""
        return _Answers([self.items[i] for i in where], self.choice[np.array(where, np.int64)])

    def of(self, condition: str) -> list[int]:
        """Return the items of a condition."""
        return [i for i, item in enumerate(self.items) if item.condition == condition]

    def measured(self) -> GroupMeasures:
        """Return the counts, shares and intervals of these items, without a comparison."""
        follow, against = (int((self.lean == x).sum()) for x in (1, -1))
        ambiguous, disambiguated = (self.only(self.of(x))._judged() for x in CONDITIONS)
        return GroupMeasures(
            items=len(self.items),
            choices="".join(role[0] for role in self.roles),
            stereotype=follow,
            against=against,
            unknown=self.roles.count("unknown"),
            preference=TestedShare(
                **share_of(follow, follow + against), p=binomial_p(follow, follow + against)
            ),
            ambiguous=ambiguous,
            disambiguated=disambiguated,
        )

    def _judged(self) -> ConditionMeasures | None:
        """Return the measures of one condition's items, which have a right answer."""
        if not self.items:
            return None
        right = sum(x.right == k for x, k in zip(self.items, self.choice.tolist(), strict=True))
        chance = fmean(1 / len(item.sides) for item in self.items)
        p = binomial_p(right, len(self.items), chance)
        share = share_of(right, len(self.items))
        return ConditionMeasures(len(self.items), Accuracy(right=right, **share, p=p))


def _change(before: _Answers, now: _Answers, people: PeopleFlips | None) -> ChoiceChange:
    """Compare the choices of another set of factors with the original's."""
    flips = before.choice != now.choice
    moved = (now.lean - before.lean)[flips]
    towards, away = int((moved > 0).sum()), int((moved < 0).sum())
    return ChoiceChange(
        flips=int(flips.sum()),
        **share_of(int(flips.sum()), len(flips)),
        towards=towards,
        away=away,
        p=binomial_p(towards, towards + away),
        people=people,
    )


def _people(before: _Answers, now: _Answers) -> PeopleFlips | None:
    """Count flips to each of the two people that all sides are about; None for other probes."""
    people = sorted({side.person for item in now.items for side in item.sides})
    if len(people) != 2 or "" in people:
        return None
    flips = np.flatnonzero(before.choice != now.choice).tolist()
    chosen = [now.items[i].sides[now.choice[i]].person for i in flips]
    counts = {who: chosen.count(who) for who in people}
    letters = ["."] * len(now.items)
    for i, who in zip(flips, chosen, strict=True):
        letters[i] = who[0]
    p = binomial_p(counts[people[0]], len(chosen))
    return PeopleFlips(to=counts, items="".join(letters), p=p)
