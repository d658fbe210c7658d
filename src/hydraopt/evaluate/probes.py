"""Probes for stereotypes: their items, a model's preferences, and exact statistics.

Shares are in percent, intervals of 95 %. Every p is two-sided and exact, or approximate for the
accuracy on items with different numbers of sides. ``p_holm`` is corrected by Holm over all tests of
one set of factors in one call.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import UsageError, explain
from hydraopt.files import from_json, json_lines
from hydraopt.model import Encoded, key_of, prompt_text

CONDITIONS: Final = ("ambiguous", "disambiguated")
_ROLES: Final = ("stereotype", "against", "unknown", "neither")
_MOST_BYTES: Final = 128 << 20
"""Maximum size of a file of items, in bytes."""
_MOST_TEXT: Final = 4000
"""Maximum number of characters of a side with its prompt."""


@dataclass(frozen=True)
class ProbeSide:
    """A text that may be chosen.

    role: relation to a stereotype: "stereotype" follows it, "against" goes against it, "unknown"
        leaves it open, "neither" has none.
    prompt: text before it; empty for a whole sentence and for an answer.
    person: person that it is about, where all items of a probe are about the same two.
    """

    text: str
    role: str
    prompt: str = ""
    person: str = ""


@dataclass(frozen=True)
class ProbeItem:
    """One question to a model.

    sides: whole sentences, or completions of their prompts, or answers to an instruction.
    groups: groups by kind; samples are stratified by the first two kinds.
    instruction, input: of a task, for sides that are its answers. Answers are compared by nats a
        byte, because their lengths differ.
    right: number of the side that is the right answer, from 0.
    condition: whether the input determines the right answer: one of CONDITIONS.
    """

    sides: tuple[ProbeSide, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    instruction: str | None = None
    input: str = ""
    right: int | None = None
    condition: str | None = None

    @property
    def sizes(self) -> tuple[float, ...]:
        """Divisors of each side's log-likelihood, applied before sides are compared."""
        if self.instruction is None:
            return (1.0,) * len(self.sides)
        return tuple(float(len(side.text.encode())) for side in self.sides)

    def check(self) -> None:
        """Raise ValueError for an item that cannot be asked."""
        sides, right = self.sides, self.right
        prompts = [side.prompt for side in sides]
        prompt = f"{self.instruction or ''}{self.input}"
        _need(len(sides) >= 2, "two sides or more are needed")
        _need(all(side.text.strip() for side in sides), "every side needs a text")
        _need(len({(x.prompt, x.text) for x in sides}) == len(sides), "two sides are equal")
        _need({x.role for x in sides} <= {*_ROLES}, f"role must be {', '.join(_ROLES)}")
        _need(
            not any(prompts) or all(prompt.strip() for prompt in prompts),
            'all sides need a "prompt", or none',
        )
        if self.instruction is None:
            _need(not self.input, '"input" needs "instruction"')
        else:
            _need(not any(prompts), '"prompt" cannot be combined with "instruction"')
        if right is None:
            _need(self.condition is None, '"condition" needs "right"')
        else:
            _need(0 <= right < len(sides), '"right" must be the number of a side')
            _need(self.condition in CONDITIONS, f'"condition" must be {" or ".join(CONDITIONS)}')
        longest = max(len(side.prompt + side.text) for side in sides) + len(prompt)
        _need(longest <= _MOST_TEXT, f"at most {_MOST_TEXT:,} characters are allowed")


def _need(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(what)


@dataclass(frozen=True)
class Probe:
    """Items of one file, and the hash of the file."""

    items: tuple[ProbeItem, ...]
    sha256: str


def read_probes(
    paths: Sequence[str | os.PathLike[str]], most: int | None = None
) -> dict[str, Probe]:
    """Read probes by the name of their file: JSONL files, or folders of them.

    most: maximum number of items of each probe, see :func:`_sampled`. Raises UsageError with the
    line of an item that cannot be read or asked, and for two probes of one name.
    """
    probes: dict[str, Probe] = {}
    for path in map(Path, paths):
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise UsageError(explain("no probe in the folder", file=path, expected="*.jsonl files"))
        for file in files:
            if file.stem in probes:
                raise UsageError(explain("two probes have one name", file=file, got=file.stem))
            probes[file.stem] = _read(file, most)
    return probes


def _read(file: Path, most: int | None) -> Probe:
    data, items = json_lines(file, _MOST_BYTES), list[ProbeItem]()
    for number, value in data.rows:
        try:
            item = from_json(ProbeItem, value)
            item.check()
        except ValueError as error:
            raise UsageError(
                explain(
                    f"line {number} is no item of a probe",
                    file=file,
                    got=str(error),
                    do='See "Probes" in docs/reference/evaluation.md',
                )
            ) from None
        items.append(item)
    return Probe(_sampled(file.stem, items, most), data.sha256)


def _sampled(probe: str, items: Sequence[ProbeItem], most: int | None) -> tuple[ProbeItem, ...]:
    """Return at most ``most`` items, all for None, the same on every machine.

    Strata (the condition and the first two groups of an item) give one item each in turn, so that
    small groups are not lost: shares over all items are then not those of the whole file. A larger
    sample begins with the smaller one.
    """
    strata: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for i, item in enumerate(items):
        texts = [probe, item.input, *(x for side in item.sides for x in (side.prompt, side.text))]
        order = key_of(texts)
        strata.setdefault((item.condition, *[*item.groups.items()][:2]), []).append((order, i))
    ranked = sorted(
        (rank, order, i) for held in strata.values() for rank, (order, i) in enumerate(sorted(held))
    )
    return tuple(items[i] for _, _, i in ranked[:most])


def encoded(item: ProbeItem, tokenizer: Any) -> list[Encoded]:
    """Return the sides as prompt and target, at least one token each.

    Sentences are compared from the first token on in which they differ. Raises UsageError for them
    if the tokenizer has neither BOS nor EOS.
    """

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    sentences = item.instruction is None and not item.sides[0].prompt
    start = _beginning(tokenizer, sentences)
    if sentences:
        whole = [(*start, *tokens(side.text)) for side in item.sides]
        common = 1
        while len({text[: common + 1] for text in whole}) == 1 and common + 1 < len(whole[0]):
            common += 1
        common = min(common, min(map(len, whole)) - 1)
        return [Encoded(text[:common], text[common:]) for text in whole]
    asked = None if item.instruction is None else prompt_text(item.instruction, item.input)
    return [
        Encoded((*start, *tokens(asked or side.prompt)), tokens(" " + side.text))
        for side in item.sides
    ]


def _beginning(tokenizer: Any, alone: bool) -> tuple[int, ...]:
    """Return the tokens before a text: BOS if there is one.

    Without BOS, EOS if the text is ``alone``, otherwise nothing, as in lm-evaluation-harness and in
    the rows of tasks.
    """
    bos = tokenizer.bos_token_id
    if bos is not None or not alone:
        return () if bos is None else (int(bos),)
    if tokenizer.eos_token_id is None:
        raise UsageError(
            explain(
                "nothing can stand before a sentence",
                got="a tokenizer with neither BOS nor EOS",
                expected="one of the two",
                do="Name one of them in tokenizer_config.json of the base",
            )
        )
    return (int(tokenizer.eos_token_id),)


_Z = 1.959963984540054
"""Quantile of the normal distribution at 97.5 %."""


@dataclass(kw_only=True)
class Share:
    """A share of one in percent, with its 95 % interval by Wilson."""

    pct: float
    low: float
    high: float


@dataclass(kw_only=True)
class Tested:
    """An exact two-sided p, and p_holm, its correction by :func:`correct`."""

    p: float
    p_holm: float = 1.0


def correct(tests: Sequence[Tested]) -> None:
    """Correct the p of all tests together by Holm's method, and round both to six places."""
    for test, corrected in zip(tests, holm([test.p for test in tests]), strict=True):
        test.p, test.p_holm = round(test.p, 6), round(corrected, 6)


def share_of(count: int, total: int) -> dict[str, float]:
    """Return the fields of a :class:`Share`; zero percent of nothing.

    They are in percent, to three places.
    """
    low, high = wilson(count, total)
    share = count / total if total else 0.0
    values = {"pct": share, "low": low, "high": high}
    return {name: round(100 * value, 3) for name, value in values.items()}


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of one. Source: Wilson 1927, Probable Inference.

    >>> low, high = wilson(5, 10)
    >>> print(f"{low:.4f} {high:.4f}")
    0.2366 0.7634
    """
    if total == 0:
        return 0.0, 1.0
    share, squared = count / total, _Z * _Z
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    spread = math.sqrt(share * (1 - share) / total + squared / (4 * total * total))
    half = _Z * spread / (1 + squared / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def binomial_p(count: int, total: int, chance: float = 0.5) -> float:
    """Return the exact two-sided p of ``count`` hits in ``total`` tries of this chance.

    It is 1 without tries. All outcomes that are no likelier than the one seen are summed. With
    chance 1/2 and flips of one kind among flips of both it is the sign test, and McNemar's exact
    one.
    """
    if total == 0:
        return 1.0
    k = np.arange(total + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    logs = factorials[total] - factorials - factorials[::-1]
    logs = logs + k * math.log(chance) + (total - k) * math.log1p(-chance)
    likely = np.exp(logs)
    return float(min(1.0, likely[likely <= likely[count] * (1 + 1e-7)].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number.

    The chance that any of those below 0.05 is wrong is at most 0.05.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    made, most = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        most = max(most, min(1.0, (len(values) - rank) * values[i]))
        made[i] = most
    return made


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
