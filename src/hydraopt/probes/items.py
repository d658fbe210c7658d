"""A probe's item: texts of which a model prefers one, and what each choice would say of people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hydraopt.basemodel.encoding import Encoded, prompt_text
from hydraopt.errors import UsageError, explain

__all__ = [
    "AMBIGUOUS",
    "DISAMBIGUATED",
    "PAIR",
    "ProbeItem",
    "ProbeSide",
    "Role",
    "encoded",
    "sampled",
]

Role = Literal["stereotype", "against", "unknown", "neither"]
Layout = Literal["sentences", "completions", "answers"]

PAIR: Final = "pair"
AMBIGUOUS: Final = "ambiguous"
DISAMBIGUATED: Final = "disambiguated"


@dataclass(frozen=True)
class ProbeSide:
    """A text that may be chosen.

    role: relation to a stereotype: follows it, goes against it, leaves it open, or has none.
    prompt: text before it; empty for a whole sentence.
    who: people that it is about, where items identify them alike.
    """

    text: str
    role: Role
    prompt: str = ""
    who: str = ""


@dataclass(frozen=True)
class ProbeItem:
    """One question to a model.

    key: of the item in its probe. groups: (kind of group, group), the first two divide samples.
    layout: whole sentences; completions of a text; or answers to the prompt of a task, which are
    compared by nats a byte, because they are of unequal length. condition: PAIR, or whether the
    text tells the answer. right: the side that the text tells.
    """

    probe: str
    key: str
    language: str
    sides: tuple[ProbeSide, ...]
    groups: tuple[tuple[str, str], ...]
    layout: Layout = "sentences"
    condition: str = PAIR
    right: int | None = None

    @property
    def sizes(self) -> tuple[float, ...]:
        """Divisors of each side's log-likelihood, applied before sides are compared."""
        if self.layout != "answers":
            return (1.0,) * len(self.sides)
        return tuple(float(len(side.text.encode())) for side in self.sides)


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


def encoded(item: ProbeItem, tokenizer: Any) -> list[Encoded]:
    """Return the sides as prompt and target, at least one token each.

    Sentences are compared from the first token on in which they differ. Raises UsageError for them
    if the tokenizer has neither BOS nor EOS.
    """

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    start = _beginning(tokenizer, alone=item.layout == "sentences")
    if item.layout == "sentences":
        whole = [(*start, *tokens(side.text)) for side in item.sides]
        common = 1
        while len({text[: common + 1] for text in whole}) == 1 and common + 1 < len(whole[0]):
            common += 1
        common = min(common, min(map(len, whole)) - 1)
        return [Encoded(text[:common], text[common:]) for text in whole]
    made = []
    for side in item.sides:
        before = side.prompt
        if item.layout == "answers":
            before = prompt_text(*side.prompt.split("\n", 1))
        made.append(Encoded((*start, *tokens(before)), tokens(" " + side.text)))
    return made


def sampled(items: Sequence[ProbeItem], most: int | None) -> list[ProbeItem]:
    """Return at most ``most`` items, all for None, the same on every machine.

    Strata (the condition and the first two groups of an item) give one item each in turn, so that
    small groups are not lost: shares over all items are then not those of the whole file. A larger
    sample begins with the smaller one.
    """
    strata: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for i, item in enumerate(items):
        order = hashlib.sha256(f"{item.probe} {item.key}".encode()).hexdigest()
        strata.setdefault((item.condition, *item.groups[:2]), []).append((order, i))
    ranked = sorted(
        (rank, order, i) for held in strata.values() for rank, (order, i) in enumerate(sorted(held))
    )
    return [items[i] for _, _, i in ranked[:most]]
