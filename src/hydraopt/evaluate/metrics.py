"""Metrics by the names that META.json uses; each from a library made for it.

A metric turns one answer into a few numbers that can be added up over rows, and the sums of any
rows into a score: so a bootstrap resamples rows without asking the library again.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.taskfile import TaskRow

__all__ = ["METRICS", "Metric", "metrics_of"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One way to score answers.

    of_row: the numbers of one answer, given the answer, its row and the language. total: the score,
    in percent, higher better, of the numbers of some rows, (rows, numbers). exact: whether the
    score is the share of rows whose answer is the expected one, letter by letter, which teacher
    forcing tells as well.
    """

    name: str
    of_row: Callable[[str, TaskRow, str], Sequence[float]]
    total: Callable[[Numbers], float]
    exact: bool = False


def _mean(numbers: Numbers) -> float:
    return 100 * float(numbers[:, 0].mean())


def _ratio(numbers: Numbers) -> float:
    hits, all_ = numbers.sum(axis=0)
    return 100 * float(hits / max(all_, 1))


def _f1(numbers: Numbers) -> float:
    """From (right, answered, expected) counts, over all rows."""
    right, answered, expected = numbers.sum(axis=0)
    return 100 * float(2 * right / max(answered + expected, 1))


def _exact(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    return [float(answer.strip() == row.output.strip())]


def _intent(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    return [float(answer.partition("(")[0].strip() == row.output.partition("(")[0].strip())]


def _last_number(text: str) -> str:
    numbers = re.findall(r"####\s*(-?[\d.,]+)", text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else ""


def _number(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    wanted = _last_number(row.output)
    return [float(bool(wanted) and _last_number(answer) == wanted)]


def _tokens_in_place(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    got, wanted = answer.split(), row.output.split()
    return [float(sum(a == b for a, b in zip(got, wanted, strict=False))), float(len(wanted))]


def _shared(got: Counter[str], wanted: Counter[str]) -> list[float]:
    return [float((got & wanted).total()), float(got.total()), float(wanted.total())]


def _slots(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    def slots(text: str) -> Counter[str]:
        return Counter(slot.strip() for slot in text.split(";") if slot.strip())

    return _shared(slots(answer), slots(row.output))


def _token_f1(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    """SQuAD's token F1, the best over references; by characters where words have no spaces."""

    def tokens(text: str) -> Counter[str]:
        plain = re.sub(r"[^\w\s]", "", text.lower())
        return Counter(plain.replace(" ", "") if language in ("zh", "ja") else plain.split())

    def one(reference: str) -> float:
        right, got, wanted = _shared(tokens(answer), tokens(reference))
        return 2 * right / (got + wanted) if got + wanted else 1.0

    return [max(map(one, row.references))]


@functools.cache
def _label(text: str) -> float:
    """A number for a label: equal labels, equal numbers."""
    import zlib

    return float(zlib.crc32(text.strip().encode()))


def _labels(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    return [_label(row.output), _label(answer)]


def _macro_f1(numbers: Numbers) -> float:
    from sklearn.metrics import f1_score

    # Averaged over the labels that are expected: an answer that is no label is a miss, no class.
    wanted = np.unique(numbers[:, 0])
    score = f1_score(numbers[:, 0], numbers[:, 1], labels=wanted, average="macro", zero_division=0)
    return 100 * float(score)


def _chrf(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    from sacrebleu.metrics.chrf import CHRF

    return [CHRF().sentence_score(answer, list(row.references)).score / 100]


def _tokenised(language: str) -> str:
    return {"zh": "zh", "ja": "char", "ko": "char"}.get(language, "13a")


@functools.cache
def _bleu(tokenise: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenise, effective_order=True)


def _bleu_of_row(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    statistics = _bleu(_tokenised(language)).sentence_score(answer, list(row.references))
    return [
        *map(float, statistics.counts),
        *map(float, statistics.totals),
        statistics.sys_len,
        statistics.ref_len,
    ]


def _bleu_total(numbers: Numbers) -> float:
    from sacrebleu.metrics.bleu import BLEU

    sums = [int(x) for x in numbers.sum(axis=0)]
    return float(
        BLEU.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method="exp").score
    )


def _gleu(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    from nltk.translate.gleu_score import sentence_gleu

    def words(text: str) -> list[str]:
        return list(text.replace(" ", "")) if language in ("zh", "ja") else text.split()

    return [float(sentence_gleu([words(r) for r in row.references], words(answer)))]


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        """Words as they stand; the default drops everything that is not ASCII."""

        def tokenize(self, text: str) -> list[str]:
            return text.lower().split()

    return RougeScorer(["rougeL"], tokenizer=Words())


def _rouge(answer: str, row: TaskRow, language: str) -> Sequence[float]:
    scored = (_rouge_scorer().score(r, answer)["rougeL"].fmeasure for r in row.references)
    return [max(scored)]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact match of the number after ####", _number, _mean),
        Metric("exact match", _exact, _mean, exact=True),
        Metric("token accuracy", _tokens_in_place, _ratio),
        Metric("intent accuracy", _intent, _mean),
        Metric("accuracy", _exact, _mean, exact=True),
        Metric("macro-F1", _labels, _macro_f1),
        Metric("slot F1", _slots, _f1),
        Metric("token-F1", _token_f1, _mean),
        Metric("chrF", _chrf, _mean),
        Metric("BLEU", _bleu_of_row, _bleu_total),
        Metric("GLEU", _gleu, _mean),
        Metric("ROUGE-L", _rouge, _mean),
    )
}
"""By the name that META.json uses. chrF, GLEU (of Google, from nltk) and ROUGE-L are means over
rows, BLEU is the corpus's; accuracy and exact match are one thing under two names."""


def metrics_of(said: str) -> list[Metric]:
    """The metrics that META.json's wording names, in its order; the first one is the task's.

    Raises UsageError when it names none.
    """
    left, named = said, []
    # Long names first, so that "accuracy" is not found inside "token accuracy".
    for name in sorted(METRICS, key=len, reverse=True):
        place = left.lower().find(name.lower())
        if place >= 0:
            named.append((place, METRICS[name]))
            left = left[:place] + "." * len(name) + left[place + len(name) :]
    if not named:
        raise UsageError(
            explain("no metric that is known", got=repr(said), expected=", ".join(METRICS))
        )
    return [metric for _, metric in sorted(named, key=lambda x: x[0])]
