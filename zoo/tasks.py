"""Tasks: rows of text in and text out, per language and split.

A task comes from a folder (`META.json` and `LANG/{train,validation,test}.jsonl`) or, for the two
example tasks, from a generator that needs no data: `number_words` (num2words) and `date_format`
(Babel). Generated splits are seeded and share no input.
"""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

SPLITS = ("train", "validation", "test")


class Row(TypedDict):
    """One example; further keys that a JSONL row may have (label, references) are dropped."""

    input: str
    output: str


class TaskError(ValueError):
    """A task folder or a generator cannot give the rows that were asked for."""


@dataclass(frozen=True)
class Task:
    """Rows of one task in one language, with the instruction that opens every prompt."""

    name: str
    language: str
    instruction: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def load_task(name: str, language: str, folder: Path | None = None, *, seed: int = 0) -> Task:
    """Task `name` in `language`: read from `folder/name`, or generated when `folder` is None.

    seed: of the generator only; files are taken as they are.
    Raises TaskError for an unknown task or language, or a row without input and output.
    """
    return (
        generate_task(name, language, seed)
        if folder is None
        else read_task(folder / name, language)
    )


def read_task(folder: Path, language: str) -> Task:
    """The task of one folder (`META.json`, `LANG/SPLIT.jsonl`) in `language`."""
    meta_file = folder / "META.json"
    if not meta_file.is_file():
        raise TaskError(f"{folder} is no task folder: it has no META.json")
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    if not (folder / language).is_dir():
        known = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise TaskError(f"task {folder.name} has no language {language!r}; it has {known}")
    rows = {split: _read_rows(folder / language / f"{split}.jsonl") for split in SPLITS}
    return Task(meta.get("task", folder.name), language, meta["instruction"], **rows)


def _read_rows(path: Path) -> tuple[Row, ...]:
    rows = []
    # Not splitlines: strings of JSON may hold U+2028 and the like as they are.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if not (isinstance(row.get("input"), str) and isinstance(row.get("output"), str)):
            raise TaskError(f"{path}, line {number}: needs the strings 'input' and 'output'")
        rows.append(Row(input=row["input"], output=row["output"]))
    return tuple(rows)


@dataclass(frozen=True)
class _Generator:
    """How to make one task: inputs drawn from `draw`, outputs by `answer(input, language)`."""

    instruction: str
    draw: Callable[[random.Random], str]
    answer: Callable[[str, str], str]
    sizes: tuple[int, int, int]  # train, validation, test


def generate_task(name: str, language: str, seed: int = 0) -> Task:
    """An example task, the same for the same seed.

    All languages share the inputs of each split, so scores of two languages compare like with like.
    """
    if name not in _GENERATORS:
        raise TaskError(f"no generator for task {name!r}; there are {sorted(_GENERATORS)}")
    generator = _GENERATORS[name]
    rng = random.Random(f"{name}/{seed}")
    inputs: dict[str, None] = {}  # a dict keeps the order of drawing, a set would not
    while len(inputs) < sum(generator.sizes):
        inputs.setdefault(generator.draw(rng))
    rows = [Row(input=text, output=generator.answer(text, language)) for text in inputs]
    train, validation, _ = generator.sizes
    return Task(
        name=name,
        language=language,
        instruction=generator.instruction,
        train=tuple(rows[:train]),
        validation=tuple(rows[train : train + validation]),
        test=tuple(rows[train + validation :]),
    )


def _draw_number(rng: random.Random) -> str:
    """A number below 1,000, uniform.

    Larger ones are left out: a 135M model with rank 8 on q and v does not learn them in minutes.
    """
    return str(rng.randrange(1000))


def _number_in_words(text: str, language: str) -> str:
    try:
        from num2words import num2words
    except ModuleNotFoundError:
        raise TaskError("number_words needs num2words: pip install num2words") from None
    try:
        return str(num2words(int(text), lang=language))
    except NotImplementedError:
        raise TaskError(f"num2words does not know the language {language!r}") from None


def _draw_date(rng: random.Random) -> str:
    """An ISO date from 1900 to 2099, uniform over days."""
    first = datetime.date(1900, 1, 1).toordinal()
    last = datetime.date(2099, 12, 31).toordinal()
    return datetime.date.fromordinal(rng.randint(first, last)).isoformat()


def _long_date(text: str, language: str) -> str:
    try:
        from babel import Locale, UnknownLocaleError
        from babel.dates import format_date
    except ModuleNotFoundError:
        raise TaskError("date_format needs Babel: pip install Babel") from None
    try:
        locale = Locale.parse(language)
    except (UnknownLocaleError, ValueError):
        raise TaskError(f"Babel does not know the language {language!r}") from None
    return format_date(datetime.date.fromisoformat(text), format="long", locale=locale)


_GENERATORS = {
    "number_words": _Generator(
        "Write the number in words.", _draw_number, _number_in_words, sizes=(750, 50, 200)
    ),
    "date_format": _Generator(
        "Write the date in words.", _draw_date, _long_date, sizes=(800, 50, 200)
    ),
}


def first_rows(rows: Iterable[Row], count: int | None) -> list[Row]:
    """The first `count` rows (all for None) as a list."""
    return list(rows)[:count]
