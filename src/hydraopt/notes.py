"""Notes: messages to the user about a result, as data; how messages show values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CODES: Final[Mapping[str, str]] = {
    # Reading adapters
    "adapter_name_in_keys": "tensor names contain the name of the adapter",
    "alpha_ignored": "an alpha in the file or in its config has no effect",
    "alpha_missing": "no alpha is stated, so the scale is 1",
    "alora": "the adapter acts only after its invocation tokens",
    "changed_base": "the adapter fits only a base model that PEFT changes in the same way",
    "dora": "the magnitudes of DoRA are kept as tensors",
    "fused_projection": "the file does not state which parts of a fused projection have factors",
    "given_twice": "paths that were given again are read once",
    "multipliers": "tensors that multiply whole modules are not in the computed norms",
    "no_adapter": "files without an adapter were left out",
    "no_peft_type": "the config states no tuner, so it was read as LoRA",
    "no_prefix": "tensor names lack the prefix of PEFT",
    "numbered_modules": "modules have numbers, so adapters align only within one model",
    "only_weight_file": "a weight file of an unusual name was read",
    "other_weight_files": "further weight files beside the one that was read were ignored",
    "same_name": "several adapters have one name, so their tasks got other names",
    "tuner": "treatment of an adapter of another tuner than LoRA",
    "unknown_settings": "settings of the config that are not understood are kept",
    "unreadable": "adapters that cannot be read were left out",
    # Merging and editing
    "all_fits": "the size is large enough to keep every bit",
    "base_copies": "tensors that exports replace by those of the base model",
    "carried": "tensors of an added task are kept bit for bit",
    "few_answers": "one changed answer of a task exceeds the limit on harm",
    "harm_outdated": "the harm stated in the bundle is outdated",
    "large_error": "tasks with an error of 1 or more",
    "large_size": "the bundle is hardly smaller than the inputs in fp16",
    "method": "method of the literature that made the factors",
    "refit_kept": "number of refitted tasks",
    "refit_undone": "number of tasks whose refit was undone to keep the limit",
    "stored": "note on the adapter from when it was merged; the bundle keeps only its text",
    "tensors_hardly_kept": "trained tensors that are hardly kept",
    "tensors_not_kept": "trained tensors that are lost",
    # Collections
    "no_index": "the index of a folder could not be written",
    "old_index": "the index of a folder could be neither written nor removed",
    "no_tasks": "there are no tasks",
    # Measuring
    "answers_cut": "harm covers only the first tokens of longer answers",
    "answers_end": "harm covers answers up to the last position of the base model",
    "errors_estimated": "the errors in the manifest are estimates",
    "few_prompts": "tasks with too few prompts to predict harm",
    "harm_limit": "limit on harm that the bundle was merged with, and tasks that are above it",
    "harm_not_measured": "tasks whose harm was not measured",
    "harm_not_stated": "tasks whose harm is not stated in the bundle",
    "likely_at_most": "meaning of the column of likely harm",
    "no_prompts": "tasks without prompts",
    "other_base": "adapters name another base model than the one given",
    "prompts_learned": "a refit may have learned from these prompts",
    "prompts_not_read": "prompts that belong to no task",
    "prompts_written": "tasks with few prompts, for which the base model wrote more",
    "weights_not_measured": "adapter whose modules cannot be weighed with the base model",
    # Scoring, inspecting and reporting
    "no_curve": "no size was estimated",
    "not_scored": "an adapter without scores",
    "originals_unused": "originals of tasks that the report does not compare",
    "other_files": "a result of other files than the bundle",
    "page_full": "parts for which the page has no room",
    "product_factors": "numbers of products are those of their factors",
    "rows_left_out": "rows that were not scored",
}
"""Codes of notes, and the meaning of each."""


@dataclass(frozen=True)
class Note:
    """Message to the user about a result, which does not make the call fail.

    code: one of ``CODES``.
    text: sentence for people.
    where: adapter, task, module or file, or several with commas between them; empty for the whole.
    """

    code: str
    text: str
    where: str = ""


def by_text(notes: Iterable[tuple[str, Note]]) -> Iterator[Note]:
    """Yield the notes of several adapters, each text once.

    The texts are "fr: TEXT", or "30 adapters: TEXT (de, en, fr and 27 more)".

    notes: the name of an adapter, and a note about it.
    """
    named: dict[tuple[str, str], list[str]] = {}
    for name, note in notes:
        named.setdefault((note.code, note.text), []).append(name)
    for (code, text), names in named.items():
        if len(names) == 1:
            yield Note(code, f"{names[0]}: {text}", names[0])
        else:
            adapters = counted(len(names), "adapter")
            yield Note(code, f"{adapters}: {text} ({listed(names)})", ", ".join(names))


def stored(task: str, texts: Iterable[str]) -> tuple[Note, ...]:
    """Return the notes of a task in a bundle, which stores texts alone."""
    return tuple(Note("stored", text, task) for text in texts)


_MOST_SHOWN: Final = 80
_FEW: Final = 8
_ALIKE: Final = 3


def real(value: object) -> float | None:
    """Return a real number as float, infinite beyond float64; None for other things."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """Return a ``repr`` for a message, shortened if it is long."""
    try:
        text = str(value) if isinstance(value, numbers.Real) else repr(value)
    except ValueError:  # Python prints no int of more than some thousand digits.
        return "a number of very many digits"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def counted(count: int, name: str) -> str:
    """Return a number of things: "1 task", "2,000 tasks"."""
    return f"{count:,} {name}{'s' * (count != 1)}"


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first few of them and the number of the others: "a, b, c and 4 more"."""
    more = len(names) - most
    first = ", ".join(str(name) for name in names[:most])
    return first + (f" and {more:,} more" if more > 0 else "")


def one_line(text: str) -> str:
    """Return the text with line ends and other characters that do not print written out."""
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def closest(wanted: str | Sequence[str], names: Collection[str]) -> str:
    """Describe which names were expected instead of unknown ones, for a message.

    All names if they are few; else those spelt most alike, and how many there are:
    "numbers-de, numbers-en (of 200)", or "one of 200 names" if none is alike.
    """
    if len(names) <= _FEW:
        return ", ".join(names)
    from difflib import get_close_matches  # only messages need it

    unknown = [wanted] if isinstance(wanted, str) else wanted[:_ALIKE]
    matches = [x for name in unknown for x in get_close_matches(name[:_MOST_SHOWN], names, _ALIKE)]
    alike = list(dict.fromkeys(matches))
    return f"{', '.join(alike)} (of {len(names):,})" if alike else f"one of {len(names):,} names"
