"""BBQ and KoBBQ: questions on a text that tells the answer, or does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Final

from hydraopt.probes.items import AMBIGUOUS, DISAMBIGUATED, ProbeItem, ProbeSide, Role
from hydraopt.probes.table import Loaded, json_rows, refuse, table_rows

__all__ = ["BBQ_KEYS", "KOBBQ_COLUMNS", "load_bbq", "load_kobbq"]

BBQ_KEYS: Final = (
    "example_id", "question_polarity", "context_condition", "category", "answer_info",
    "additional_metadata", "context", "question", "ans0", "ans1", "ans2", "label",
)  # fmt: skip
KOBBQ_COLUMNS: Final = (
    "sample_id", "context", "question", "choices", "biased_answer", "answer",
)  # fmt: skip

_UNKNOWN: Final = "unknown"
_CONDITIONS: Final = {"ambig": AMBIGUOUS, "disambig": DISAMBIGUATED}
_ASK: Final = "Answer the question about the text."
_ASK_KOREAN: Final = "글을 읽고 질문에 답하시오."
_SEX: Final = {"woman": "f", "girl": "f", "man": "m", "boy": "m"}
"""Terms in BBQ's tags of people, and the letters of its target lists (F and M) for them."""


def load_bbq(path: Path) -> Loaded:
    """Load a JSONL file of BBQ.

    The side of a stereotype is the target of a question that puts people in a bad light, and the
    other person where it puts them in a good one.

    Questions of which the tags do not tell one target are left out and counted. Raises UsageError.
    """
    made = Loaded([], {})
    for number, row in json_rows(path, BBQ_KEYS):
        try:
            category, context, question = (
                str(row[key]) for key in ("category", "context", "question")
            )
            condition = _CONDITIONS[row["context_condition"]]
            bad = {"neg": True, "nonneg": False}[row["question_polarity"]]
            texts = [str(row[f"ans{i}"]) for i in range(3)]
            tags = [tuple(map(str, row["answer_info"][f"ans{i}"])) for i in range(3)]
            wanted = row["additional_metadata"]["stereotyped_groups"]
            right, key = int(row["label"]), f"{category} {row['example_id']}"
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise refuse(path, f"line {number} is no question of BBQ", got=repr(error)) from None
        if not 0 <= right < 3:
            raise refuse(path, f"line {number} has another label", got=right, expected="0 to 2")
        if not all(tags):
            raise refuse(path, f"line {number} has an answer without tags")
        open_ones = [i for i, tag in enumerate(tags) if tag[-1] == _UNKNOWN]
        targets = _targets(tags, wanted, open_ones)
        if len(open_ones) != 1 or len(targets) != 1:
            made.skip("questions of which the tags do not tell one target")
            continue
        roles: list[Role] = ["against" if bad else "stereotype"] * 3
        roles[targets[0]] = "stereotype" if bad else "against"
        roles[open_ones[0]] = "unknown"
        prompt = f"{_ASK}\n{context} {question}"
        target = tags[targets[0]][-1]
        groups = ("about", category), ("question", "bad" if bad else "good"), ("target", target)
        sides = tuple(ProbeSide(*pair, prompt) for pair in zip(texts, roles, strict=True))
        made.items.append(ProbeItem("bbq", key, "en", sides, groups, "answers", condition, right))
    return made


def _targets(tags: list[tuple[str, ...]], wanted: Any, open_ones: list[int]) -> list[int]:
    """Return the answers that name a stereotyped group, by the tag's second or its first part."""
    groups = {_plain(str(x)) for x in (wanted if isinstance(wanted, list) else [wanted])}
    groups |= {_SEX[x] for x in groups if x in _SEX}
    people = [i for i in range(len(tags)) if i not in open_ones]

    def fits(tag: str) -> bool:
        parts = {_plain(tag), *map(_plain, tag.split("-"))}
        return bool(groups & (parts | {_SEX[x] for x in parts if x in _SEX}))

    by_group = [i for i in people if fits(tags[i][-1])]
    return by_group if len(by_group) == 1 else [i for i in people if fits(tags[i][0])]


def _plain(text: str) -> str:
    return re.sub(r"\W|_", "", text).lower()


_UNKNOWN_KOREAN: Final = "알 수 없음"
_KOREAN_ID: Final = re.compile(r"(.+)-(\d+)([a-d])-(\w+)-(amb|dis)-(bsd|cnt)(-.*)?")


def load_kobbq(path: Path) -> Loaded:
    """``KoBBQ_test_samples.tsv`` or ``KoBBQ_all_samples.tsv``. Raises UsageError."""
    made = Loaded([], {})
    for row in table_rows(path, KOBBQ_COLUMNS, "\t"):
        name = row["sample_id"]
        told = _KOREAN_ID.fullmatch(name)
        try:
            choices: Any = ast.literal_eval(row["choices"])
            "".join(choices).encode()  # texts, and no lone surrogates
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            choices = []
        right = isinstance(choices, list) and len(choices) == len(set(choices)) == 3
        if told is None or not right:
            raise refuse(path, f"{name[:40]} is no question of KoBBQ", got=row["choices"][:60])
        people = set(choices) - {_UNKNOWN_KOREAN}
        if len(people) != 2 or row["biased_answer"] not in people or row["answer"] not in choices:
            raise refuse(path, f"the answers of {name[:40]} are not among its choices")
        roles: dict[str, Role] = dict.fromkeys(choices, "against")
        roles |= {row["biased_answer"]: "stereotype", _UNKNOWN_KOREAN: "unknown"}
        prompt = f"{_ASK_KOREAN}\n{row['context']} {row['question']}"
        condition = AMBIGUOUS if told[5] == "amb" else DISAMBIGUATED
        asked = "for the stereotype" if told[6] == "bsd" else "against it"
        groups = ("about", told[1]), ("question", asked)
        sides = tuple(ProbeSide(x, roles[x], prompt) for x in choices)
        answer = list(choices).index(row["answer"])
        item = ProbeItem("kobbq", name, "ko", sides, groups, "answers", condition, answer)
        made.items.append(item)
    return made
