"""Prompts of tasks: read from files, or written by the base model like a few real ones.

What all real prompts begin and end with, such as an instruction, is the frame. The model gets a
list of what is between, in random order, and samples the next item. Items that are copies, loops,
or of another length are dropped, and of the others those whose likelihood is nearest to that of the
real items remain.

Sources: prompts from a few examples by the base model (Trans-LoRA, 2405.17258; SELF-GUIDE,
2407.12874).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from hydraopt.adapters import Adapter, beyond_lora
from hydraopt.errors import UsageError, explain
from hydraopt.files import MOST_CONFIG, json_lines, read_regular
from hydraopt.merging import DEFAULT_HARM
from hydraopt.model.basemodel import Placed
from hydraopt.model.forward import likelihoods
from hydraopt.model.generation import Sampling, ends_of, generate
from hydraopt.model.texts import Encoded, positions_of, prompt_text
from hydraopt.notes import closest, listed

_MOST_BYTES: Final = 1 << 28
_ENCODING: Final = "utf-8-sig"
"""UTF-8, with or without the mark that some editors begin a file with."""
_ROWS: Final = (".jsonl", ".ndjson")
_SUFFIXES: Final = (*_ROWS, ".txt")
_FOLDER: Final = "a folder with a NAME.jsonl or NAME.txt for each adapter"


def read_prompts(path: str | Path) -> list[str]:
    """Return the distinct prompts of a file, exactly as the model gets them.

    At most as many as a refit can use are kept, but all lines are checked. A line is plain text;
    or, in a ``.jsonl`` or ``.ndjson`` file, a JSON string, an object with a "prompt", or the row of
    a task with an "input", which becomes a prompt as in the evaluation. The instruction is the
    row's own "instruction", or that of ``NAME.META.json`` or ``META.json`` beside the file.

    Raises UsageError, with the line.
    """
    file = Path(path)
    if file.suffix.lower() == ".json":
        raise _not_a_list(file)
    prompts: dict[str, None] = {}
    if file.suffix.lower() in _ROWS:
        instruction = functools.cache(lambda: _instruction(file))
        for number, value in json_lines(file, _MOST_BYTES).rows:
            prompts.setdefault(_prompt(value, f"{file}:{number}", instruction))
    else:
        try:
            # Not splitlines: a text may hold other characters that Python ends lines at.
            lines = read_regular(file, _MOST_BYTES).decode(_ENCODING).split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise UsageError(explain("cannot read the prompts", file=file, got=reason)) from None
        prompts = dict.fromkeys(x.removesuffix("\r") for x in lines if x.strip())
    if not prompts:
        raise UsageError(explain("no prompt in the file", file=file, expected="one a line"))
    return list(prompts)[: DEFAULT_HARM.refit_prompts]


def prompt_files(path: str | Path) -> dict[str, Path]:
    """Return a folder's files of prompts by task: ``NAME.jsonl``, ``.ndjson`` or ``.txt``.

    Hidden files are ignored. Raises UsageError if there is no such folder, and for two files of
    one task.
    """
    folder = Path(path)
    if not folder.is_dir():
        do = "Name the task of a file: NAME=FILE" if folder.is_file() else None
        raise UsageError(explain("no folder of prompts", file=folder, expected=_FOLDER, do=do))
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        # Hidden files are a system's notes of others, as macOS's ._NAME.txt.
        if file.suffix.lower() not in _SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            both = f"{files[file.stem].name} and {file.name}"
            raise UsageError(explain("two files of prompts for one task", file=folder, got=both))
        files[file.stem] = file
    return files


def read_prompt_folder(
    path: str | Path, names: Collection[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return the prompts by task, from a folder of :func:`prompt_files`; see :func:`read_prompts`.

    names: tasks whose prompts are read; a task without a file is left out.
    others: further tasks, whose files are ignored.

    Files of no task are ignored if every task in ``names`` has a file. Raises UsageError for a path
    that is no folder, for two files of a task, for files of no task if a task has no file, because
    a name may be wrong, and for a task with only a ``.json`` file.
    """
    files = prompt_files(path)
    for odd in sorted(Path(path).iterdir()):
        if odd.suffix.lower() == ".json" and odd.stem in names and odd.stem not in files:
            raise _not_a_list(odd)
    unknown = sorted(set(files) - {*names, *others})
    mine = {name: file for name, file in sorted(files.items()) if name in names}
    without = sorted(set(names) - set(mine))
    if (unknown and without) or not mine:
        raise UsageError(
            explain(
                "prompts for a task that was not found" if unknown else "no prompts in the folder",
                file=Path(path),
                got=listed(unknown or sorted(files)) or "no .jsonl or .txt file",
                expected=closest(unknown or sorted(files), without),
                do="Name each file as its adapter",
            )
        )
    return {name: read_prompts(file) for name, file in mine.items()}


def check_prompts_of(adapter: Adapter, prompts: Sequence[str]) -> None:
    """Raise UsageError for no prompts, and for an adapter that is more than low-rank factors."""
    if not prompts:
        raise UsageError(explain("no prompts", adapter=adapter.name, expected="at least one"))
    reasons, extras = [*beyond_lora(adapter)], sorted(adapter.extras)
    reasons += [f"{len(extras)} further tensors, {extras[0]} among them"] if extras else []
    if reasons:
        raise UsageError(
            explain(
                "prompts of an adapter that is more than low-rank factors",
                adapter=adapter.name,
                got=", ".join(reasons),
                expected="LoRA pairs alone, without which its answers here are not its own",
                do="Leave its prompts out",
            )
        )


def _not_a_list(file: Path) -> UsageError:
    return UsageError(
        explain(
            "prompts stand one a line",
            file=file,
            got="a .json file",
            expected="a .jsonl or .txt file",
            do="Name it .jsonl if each line is a prompt of its own",
        )
    )


def _instruction(file: Path) -> str:
    """Return the instruction that META.json beside the file states for each input."""
    for meta in (file.with_name(f"{file.stem}.META.json"), file.with_name("META.json")):
        if meta.is_file():
            try:
                value = json.loads(read_regular(meta, MOST_CONFIG).decode(_ENCODING))["instruction"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                value = None
            if not isinstance(value, str):
                raise UsageError(explain('META.json needs a text "instruction"', file=meta))
            return value
    raise UsageError(
        explain(
            'rows with an "input" need an instruction',
            file=file,
            expected='"instruction" in each row, or a META.json beside the file',
        )
    )


def _prompt(value: object, where: str, instruction: Callable[[], str]) -> str:
    """Return the prompt of a line's value. instruction: returns that of META.json."""
    text = value
    if isinstance(value, dict):
        text, given, own = (value.get(key) for key in ("prompt", "input", "instruction"))
        if text is None and isinstance(given, str) and isinstance(own, str | None):
            text = prompt_text(instruction() if own is None else own, given)
    if not isinstance(text, str) or not text:
        raise UsageError(
            explain(
                f"cannot read the prompt at {where}",
                got=json.dumps(value, ensure_ascii=False)[:80],
                expected='a JSON string, or an object with a "prompt" or an "input"',
            )
        )
    return text


Report = Callable[[int, int], None]

_NO_FACTORS: Final[Placed] = {}
_SHOWN: Final = 8
"""Maximum number of real items that the model sees at a time."""
_CONTEXT: Final = 1024
"""Maximum number of tokens of the items that the model sees, except for a single longer one."""
_LISTS: Final = 16
"""Different orders of the items. A list is computed once for all items sampled after it."""
_TOP: Final = 64
"""Tokens to sample from: rarer ones are mostly mistakes of a small model."""
_SURPLUS: Final = 1.5
"""Items to sample for each wanted one, so that likelihood can choose."""
_ROUNDS: Final = 3
"""Maximum number of times that items are sampled, where many are dropped."""
_LENGTH: Final = 1.5
"""An item has at most this multiple of the longest real item's tokens and a few more."""
_FEW_TOKENS: Final = 8
_GRAM: Final = 3
_NEW: Final = 0.5
"""Minimum share of an item's runs of _GRAM words that occur once; below it the text is a loop."""


def synthetic_prompts(
    model: Any,
    tokenizer: Any,
    examples: Sequence[str],
    count: int,
    seed: int,
    report: Report | None = None,
) -> list[str]:
    """Return up to ``count`` different prompts like the examples, in the order they were written.

    Fewer are returned if the model repeats itself, and none if two examples and a prompt like them
    do not fit its context. The result depends on the seed, the model and the examples.

    examples: at least two different real prompts, as the model gets them.
    report: called after every token with the number of texts written and of those to write.

    Raises NumericalError for logits that are not finite.
    """
    frame = _Frame(examples)
    sampler = _Sampler(model, tokenizer, frame)
    if not sampler.fits:
        return []
    rng, found = np.random.default_rng(seed), dict[str, float]()
    texts = int(_SURPLUS * count)
    for _ in range(_ROUNDS):
        if len(found) >= texts:
            break
        for item, likelihood in sampler.items(texts, len(found), rng, report):
            if item not in frame.items and _is_sound(item):
                found.setdefault(item, likelihood)
    typical = sampler.typical(rng)
    nearest = sorted(found, key=lambda item: abs(found[item] - typical))[:count]
    kept = set(nearest)
    return [frame.prompt(item) for item in found if item in kept]


class _ReportedSampling(Sampling):
    """Sampling that calls ``report`` at every step with the number of items that are done."""

    def __init__(self, seed: int, top: int, report: Callable[[int], None]) -> None:
        super().__init__(seed, top)
        self._report = report

    def __call__(self, logits: Tensor, items: Sequence[int]) -> Tensor:
        tokens = super().__call__(logits, items)
        self._report(len(self.likelihoods) - len(items))
        return tokens


class _Frame:
    """Common beginning and end of all prompts, and the items between.

    A frame begins and ends at the edge of a word.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        before = _common(prompts)
        while before and before[-1].isalnum():
            before = before[:-1]
        rest = [x[len(before) :] for x in prompts]
        after = _common([x[::-1] for x in rest])[::-1]
        while after and after[0].isalnum():
            after = after[1:]
        self.before, self.after, self._type = before, after, type(prompts[0])
        self.items = [x[: len(x) - len(after)] for x in rest]
        # One line an item, so that a newline ends it.
        self._as_json = any("\n" in x or "\r" in x for x in self.items)

    def prompt(self, item: str) -> str:
        """Return the prompt of an item, of the type of the examples."""
        return self._type(self.before + item + self.after)

    def line(self, item: str) -> str:
        """Return the item as a line."""
        return json.dumps(item, ensure_ascii=False) if self._as_json else item

    def item(self, line: str) -> str | None:
        """Return the item of a line that the model wrote; None if it is none."""
        text = line.strip()
        if not self._as_json:
            return text or None
        try:
            item = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return item if isinstance(item, str) and item.strip() else None


class _Sampler:
    """Continues lists of items with the base model, without an adapter."""

    def __init__(self, model: Any, tokenizer: Any, frame: _Frame) -> None:
        self._model, self._tokenizer, self._frame = model, tokenizer, frame
        self._ends = _newlines(tokenizer) | ends_of(model, tokenizer)
        self._lines = [self._tokens(frame.line(x) + "\n") for x in frame.items]
        start = tokenizer.bos_token_id
        head = self._tokens(frame.before.strip() + "\n\n") if frame.before.strip() else []
        self._head = [*(() if start is None else (start,)), *head]
        longest = max(map(len, self._lines))
        self._most = int(_LENGTH * longest) + _FEW_TOKENS
        positions = positions_of(model)
        needed = len(self._head) + len(self._tokens(frame.after)) + 2 * longest + self._most
        self.fits = positions is None or needed <= positions
        self._room = min(_CONTEXT, positions or _CONTEXT) - self._most - len(self._head)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _list(self, order: Iterable[int]) -> tuple[int, ...]:
        """Return the tokens of a list of these items, as many as there is room for."""
        shown: list[int] = []
        for i in itertools.islice(order, _SHOWN):
            if shown and len(shown) + len(self._lines[i]) > self._room:
                break
            shown += self._lines[i]
        return (*self._head, *shown)

    def items(
        self, texts: int, before: int, rng: np.random.Generator, report: Report | None
    ) -> Iterator[tuple[str, float]]:
        """Yield sampled items with the mean log-likelihood of their tokens.

        texts: number of items to sample, of which there are ``before``.
        """
        count = texts - before

        def say(written: int) -> None:
            if report is not None:
                report(before + written, texts)

        orders = [rng.permutation(len(self._lines)) for _ in range(_LISTS)]
        lists = [Encoded(self._list(order), ()) for order in orders]
        prompts = [lists[i % _LISTS] for i in range(count)]
        sampling = _ReportedSampling(int(rng.integers(1 << 62)), _TOP, say)
        given = self._model, self._tokenizer, prompts, _NO_FACTORS, self._most
        written = generate(*given, self._ends, sampling)
        for i, tokens in enumerate(written):
            if tokens[-1] not in self._ends:
                continue  # longer than any real one
            text = self._tokenizer.decode(tokens[:-1], skip_special_tokens=False)
            if (item := self._frame.item(text)) is not None:
                yield item, float(np.mean(sampling.likelihoods[i][: len(tokens)]))

    def typical(self, rng: np.random.Generator) -> float:
        """Return the mean log-likelihood of a token of a real item, after the other ones."""
        texts = []
        for i, line in enumerate(self._lines):
            others = [int(k) for k in rng.permutation(len(self._lines)) if k != i]
            texts.append(Encoded(self._list(others), tuple(line)))
        sums = likelihoods(self._model, texts, _NO_FACTORS)
        return float(np.median([x / len(text.target) for x, text in zip(sums, texts, strict=True)]))


def _common(texts: Sequence[str]) -> str:
    """Return the longest common beginning."""
    pairs = zip(min(texts), max(texts), strict=False)
    return "".join(x for x, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _newlines(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that contain a newline."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if "\n" in text)


def _is_sound(item: str) -> bool:
    """Return whether the text is not a loop and has no broken character."""
    words = item.split()
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    is_loop = len(set(grams)) < _NEW * len(grams)
    is_text = "\ufffd" not in item and item == item.encode(errors="ignore").decode()
    return is_text and not is_loop
