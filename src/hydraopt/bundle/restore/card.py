"""The model card of an export: README.md, which says what the adapter is and what coding did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.recipes import answer_tokens_in, states_estimates
from hydraopt.files.reading import read_regular
from hydraopt.files.writing import write_atomically

if TYPE_CHECKING:
    from hydraopt.bundle.task import TaskAdapter

__all__ = ["CARD", "card_of", "harm_text", "write_card"]

CARD: Final = "README.md"
_MARK: Final = "\ntags:\n- hydraopt\n---\n"
_MOST_BYTES: Final = 1 << 20


def write_card(
    made: Path, target: Path, task: TaskAdapter, library: str, *, as_it_was: bool = False
) -> None:
    """Write the card of ``task`` into the folder ``made``, which is to become ``target``.

    library: who loads the folder.  as_it_was: it holds the original's own tensors.  A README.md
    that is in either folder already, and that no export wrote, stays.
    """
    if not any(_is_anothers(folder / CARD) for folder in (made, target)):
        write_atomically(made / CARD, [card_of(task, library, as_it_was).encode()])


def card_of(task: TaskAdapter, library: str, as_it_was: bool) -> str:
    """The card: what hubs read first, then what the folder is, its error, and its harm.

    as_it_was: as in :func:`write_card`.
    """
    base = task.base_model
    # A JSON string is one of YAML too.
    named = [f"base_model: {json.dumps(base, ensure_ascii=False)}\n"] if base else []
    head = "".join(["---\n", *named, f"library_name: {library}", _MARK])
    about = f"An adapter of {base or 'a base model that it does not name'}, out of a bundle of"
    entry = task.entry
    # What a method made is kept bit by bit, and is not the original.
    if entry.lossless and "method" not in task.bundle.recipe:
        weights = "Its tensors are those of the original, bit by bit."
        if not as_it_was:
            weights = "Its numbers follow from those of the original, and are in another form."
    else:
        how = ", estimated" if states_estimates(task.bundle.recipe) else ""
        weights = f"The relative error of its weights is {entry.error:.4g} (Frobenius norms{how})."
    harm = "Nobody measured whether its answers change."
    if entry.harm is not None:
        harm = harm_text(entry.harm, answer_tokens_in(task.bundle.recipe))
    return f"{head}\n# {task.name}\n\n{about} hydraopt. {weights}\n\n{harm}\n"


def harm_text(harm: Harm, tokens: int) -> str:
    """What was measured, in three sentences. tokens: of an answer that were judged, at most."""
    seen = "that no part was trained on" if harm.held_out else "that parts of it were trained on"
    prompts = "prompt" if harm.answers == 1 else "prompts"
    change = "changes" if harm.changed == 1 else "change"
    return (
        f"Of the original adapter's answers to {harm.answers:,} {prompts} {seen}, {harm.changed:,} "
        f"{change}; {100 * harm.likely:.2f} % are likely to. KL from the original is "
        f"{harm.kl:.3g} nats an answer. Of an answer the first {tokens:,} tokens count."
    )


def _is_anothers(file: Path) -> bool:
    """Whether a card is there that no export of a task wrote."""
    if not file.exists() and not file.is_symlink():
        return False
    try:
        return _MARK.encode() not in read_regular(file, _MOST_BYTES)
    except OSError:
        return True
