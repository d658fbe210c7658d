"""Items of probes: texts of which a model prefers one, and the role of each text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hydraopt.basemodel.encoding import Encoded, prompt_text
from hydraopt.basemodel.memory import key_of
from hydraopt.errors import UsageError, explain
from hydraopt.files.jsonlines import json_lines
from hydraopt.jsonvalues import from_json

__all__ = ["CONDITIONS", "Probe", "ProbeItem", "ProbeSide", "encoded", "read_probes"]

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
