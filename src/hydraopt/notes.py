"""Notes: messages to the user about a result, as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hydraopt.values import counted, listed

__all__ = ["CODES", "Note", "by_text", "stored"]

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
