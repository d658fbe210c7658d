"""Task folders (``TASK/LANGUAGE/SPLIT.jsonl``) and the metrics that META.json names.

A metric turns one answer into a few numbers that can be added up over rows, and the sums of any
rows into a score: so a bootstrap resamples rows without asking the library again.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import UsageError, explain
from hydraopt.files import MOST_CONFIG, AnyPath, json_lines, read_regular

_MOST_ROWS = 1 << 30
"""Maximum size of a file of task rows, in bytes."""
_MOST_SAID = 100


@dataclass(frozen=True)
class TaskExample:
    """One example. references: all answers that are right, ``output`` first."""

    input: str
    output: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskFile:
    """Rows of one split of one task in one language.

    metric: as META.json words it. sha256: of the JSONL file. labels: of a classification, in the
    order of the head's rows: META.json's "labels"; else its "label_set", or what the rows expect,
    sorted by code point.
    """

    name: str
    language: str
    instruction: str
    metric: str
    rows: tuple[TaskExample, ...]
    sha256: str
    labels: tuple[str, ...] = ()


def read_task_file(tasks: Path, name: str, language: str, split: str = "test") -> TaskFile:
    """Read ``tasks/name/language/split.jsonl``; raises UsageError that names file and line."""
    folder = tasks / name
    meta = _meta(folder)
    path = folder / language / f"{split}.jsonl"
    if not path.is_file():
        there = sorted(p.parent.name for p in folder.glob(f"*/{split}.jsonl"))
        raise UsageError(
            explain(
                f"task {name} has no {split} rows in {language!r}",
                file=path,
                got="no such file",
                expected=", ".join(there) or "a folder for each language",
            )
        )
    data = json_lines(path, _MOST_ROWS)
    rows = tuple(_row(value, path, number) for number, value in data.rows)
    return TaskFile(
        name,
        language,
        str(meta["instruction"]),
        str(meta["metric"]),
        rows,
        data.sha256,
        _labels(meta, rows, name),
    )


def _labels(
    meta: Mapping[str, object], rows: tuple[TaskExample, ...], name: str
) -> tuple[str, ...]:
    for key in ("labels", "label_set"):
        value = meta.get(key)
        if value is None:
            continue
        known = [x for x in value if isinstance(x, str)] if isinstance(value, list) else []
        if not known or len(set(known)) != len(value):  # type: ignore[arg-type]  # a list, if known
            raise UsageError(
                explain(f'"{key}" in META.json of {name}', got=value, expected="different strings")
            )
        return tuple(known if key == "labels" else sorted(known))
    return tuple(sorted({row.output for row in rows}))


def _meta(folder: Path) -> Mapping[str, object]:
    path, got = folder / "META.json", "no such file" if folder.is_dir() else "no such folder"
    if path.is_file():
        try:
            meta = json.loads(read_regular(path, MOST_CONFIG).decode("utf-8"))
            if all(isinstance(meta[key], str) for key in ("instruction", "metric")):
                return dict(meta)
            got = "values that are no text"
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            got = repr(error)[:_MOST_SAID]
    raise UsageError(
        explain(
            f"{folder.name} is no task: its META.json cannot be read",
            file=path,
            got=got,
            expected='a JSON object with the texts "instruction" and "metric"',
        )
    )


def _row(value: Any, file: Path, number: int) -> TaskExample:
    row = value if isinstance(value, dict) else {}
    given, output, more = row.get("input"), row.get("output"), row.get("references")
    more = [] if more is None else more
    right = isinstance(more, list) and all(isinstance(x, str) for x in more)
    if not (isinstance(given, str) and isinstance(output, str) and right):
        raise UsageError(
            explain(
                f"line {number} is no row of a task",
                file=file,
                got=json.dumps(value, ensure_ascii=False)[:60],
                expected='strings "input" and "output"; "references" is a list of strings, if any',
            )
        )
    return TaskExample(given, output, (output, *(x for x in more if x != output)))


class TaskName(NamedTuple):
    """A task and its language. source: where both are stated, for messages."""

    name: str
    language: str
    source: str


def named_task(adapter: str, folder: AnyPath | None, tasks: Path) -> TaskName:
    """Return the task of an adapter: that of its score.json ("task/language"), else of its name.

    folder: the adapter was read from there; one of a store is not looked into. A name is
    TASK-LANGUAGE with a task that ``tasks`` has. Raises UsageError if neither states a task.
    """
    file = folder / "score.json" if isinstance(folder, Path) else None
    if file and file.is_file():
        try:
            value = json.loads(read_regular(file, MOST_CONFIG).decode("utf-8")).get("task")
        except (ValueError, AttributeError, RecursionError):
            value = None
        if isinstance(value, str) and value.count("/") == 1:
            name, language = value.split("/")
            return TaskName(name, language, f'"task" in {file}')
    name, dash, language = adapter.rpartition("-")
    if dash and (tasks / name / language).is_dir():
        return TaskName(name, language, f"the adapter's name {adapter}")
    raise UsageError(
        explain(
            f"cannot tell the task of adapter {adapter}",
            got="no score.json that names it, and no such task folder",
            expected='a name TASK-LANGUAGE, or score.json with "task": "TASK/LANGUAGE"',
            file=folder,
            do=f"Set it with --task {adapter}=TASK/LANGUAGE",
        )
    )


Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A way to score answers.

    of_row: returns the numbers of one answer, given the answer, its row and the language.
    total: returns the score in percent, higher is better, of the numbers of some rows, (rows,
        numbers).
    exact: whether the score is the share of rows with an exactly correct answer; teacher forcing
        can measure it if a row has one correct answer.
    """

    name: str
    of_row: Callable[[str, TaskExample, str], Sequence[float]]
    total: Callable[[Numbers], float]
    exact: bool = False


def _mean(numbers: Numbers) -> float:
    return 100 * float(numbers[:, 0].mean())


def _ratio(numbers: Numbers) -> float:
    hits, all_ = numbers.sum(axis=0)
    return 100 * float(hits / max(all_, 1))


def _f1(numbers: Numbers) -> float:
    """Return F1 in percent from (right, answered, expected) counts over all rows."""
    right, answered, expected = numbers.sum(axis=0)
    return 100 * float(2 * right / max(answered + expected, 1))


def _exact(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    return [float(answer.strip() in {right.strip() for right in row.references})]


def _intent(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    def intent(text: str) -> str:
        return text.partition("(")[0].strip()

    return [float(intent(answer) in map(intent, row.references))]


def _last_number(text: str) -> str:
    numbers = re.findall(r"####\s*(-?[\d.,]+)", text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else ""


def _number(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    wanted = set(map(_last_number, row.references)) - {""}
    return [float(_last_number(answer) in wanted)]


def _tokens_in_place(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    got, wanted = answer.split(), row.output.split()
    return [float(sum(a == b for a, b in zip(got, wanted, strict=False))), float(len(wanted))]


def _shared(got: Counter[str], wanted: Counter[str]) -> list[float]:
    return [float((got & wanted).total()), float(got.total()), float(wanted.total())]


def _slots(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    def slots(text: str) -> Counter[str]:
        return Counter(slot.strip() for slot in text.split(";") if slot.strip())

    return _shared(slots(answer), slots(row.output))


def _pieces(text: str, language: str) -> list[str]:
    """Return words, or characters where words have no spaces between them."""
    words = text.split()
    return list("".join(words)) if language in ("zh", "ja") else words


def _token_f1(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    """Return SQuAD's token F1, the best over references.

    Text whose words have no spaces is compared by characters. Case, punctuation and symbols do not
    count. Articles do, unlike in SQuAD, because removing them suits English alone.
    """

    def tokens(text: str) -> Counter[str]:
        # Marks stay: in Indic and Thai script they are vowels.
        plain = "".join(x for x in text.lower() if unicodedata.category(x)[0] not in "PS")
        return Counter(_pieces(plain, language))

    def one(reference: str) -> float:
        right, got, wanted = _shared(tokens(answer), tokens(reference))
        return 2 * right / (got + wanted) if got + wanted else 1.0

    return [max(map(one, row.references))]


@functools.cache
def _label(text: str) -> float:
    """Return a number for a label: equal labels, equal numbers."""
    import zlib

    return float(zlib.crc32(text.strip().encode()))


def _expected_labels(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    return [_label(row.output), _label(answer)]


def _macro_f1(numbers: Numbers) -> float:
    # Averaged over the labels that are expected: an answer that is no label is a miss, no class.
    # Counted here: a bootstrap asks a thousand times, and scikit-learn takes a millisecond.
    wanted, answered = numbers[:, 0], numbers[:, 1]
    labels, places = np.unique(wanted, return_inverse=True)
    size = len(labels)
    near = np.searchsorted(labels, answered).clip(max=size - 1)
    known = near[labels[near] == answered]
    right = np.bincount(places[wanted == answered], minlength=size)
    both = np.bincount(places, minlength=size) + np.bincount(known, minlength=size)
    return 100 * float((2 * right / both).mean())


def _chrf(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    from sacrebleu.metrics.chrf import CHRF

    return [CHRF().sentence_score(answer, list(row.references)).score / 100]


def _tokenised(language: str) -> str:
    return {"zh": "zh", "ja": "char", "ko": "char"}.get(language, "13a")


@functools.cache
def _bleu(tokenise: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenise, effective_order=True)


def _bleu_of_row(answer: str, row: TaskExample, language: str) -> Sequence[float]:
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


def _gleu(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    from nltk.translate.gleu_score import sentence_gleu

    right = [_pieces(x, language) for x in row.references]
    return [float(sentence_gleu(right, _pieces(answer, language)))]


@functools.cache
def _rouge_scorer(language: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Pieces:
        """Words as they stand; the default drops everything that is not ASCII."""

        def tokenize(self, text: str) -> list[str]:
            return _pieces(text.lower(), language)

    return RougeScorer(["rougeL"], tokenizer=Pieces())


def _rouge(answer: str, row: TaskExample, language: str) -> Sequence[float]:
    scorer = _rouge_scorer(language)
    return [max(scorer.score(x, answer)["rougeL"].fmeasure for x in row.references)]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact match of the number after ####", _number, _mean),
        Metric("exact match", _exact, _mean, exact=True),
        Metric("token accuracy", _tokens_in_place, _ratio),
        Metric("intent accuracy", _intent, _mean),
        Metric("accuracy", _exact, _mean, exact=True),
        Metric("macro-F1", _expected_labels, _macro_f1),
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


def metrics_of(text: str) -> list[Metric]:
    """Return the metrics that META.json's wording names, in its order; the first one is the task's.

    A name stands by itself: "chrF++", "top-accuracy" and "token-level accuracy" name other metrics.
    Raises UsageError when it names none.
    """
    left, named = text, []
    # Long names first, so that "accuracy" is not seen inside "token accuracy".
    for name in sorted(METRICS, key=len, reverse=True):
        other = "(?<!-level )" if METRICS[name].exact else ""
        match = re.search(rf"(?<![\w+-]){other}{re.escape(name)}(?![\w+-])", left, re.IGNORECASE)
        if match:
            named.append((match.start(), METRICS[name]))
            left = left[: match.start()] + "." * len(match[0]) + left[match.end() :]
    if not named:
        raise UsageError(
            explain("no metric that is known", got=repr(text), expected=", ".join(METRICS))
        )
    return [metric for _, metric in sorted(named, key=lambda x: x[0])]
