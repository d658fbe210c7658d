"""Model card of an export: README.md, which describes the adapter and the effect of coding."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hydraopt.adapters.imagemodels import family_of, is_image_model, is_numbered
from hydraopt.bundle.harm import Harm, answer_tokens_in, states_estimates
from hydraopt.bundle.spec import ModuleEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.files.reading import read_regular
from hydraopt.files.writing import write_atomically

__all__ = ["base_words", "harm_text", "load_lines", "write_card"]

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
        text = card_of(task, library, as_it_was)
        write_atomically(made / CARD, [text.encode()])


def base_words(base_model: str | None, modules: Iterable[ModuleEntry]) -> str:
    """Return the name of a base model, or a description of one that no file names.

    modules: those of its adapters. Their shapes tell the family of some image models.
    """
    if base_model:
        return base_model
    widths = [(module.path, module.n) for module in modules]
    if not is_image_model(path for path, _ in widths):
        return "a base model that is not named"
    family = family_of(widths)
    return f"an unnamed image model{f' with the module shapes of {family}' if family else ''}"


def load_lines(base_model: str | None, place: str, modules: Iterable[ModuleEntry]) -> list[str]:
    """Return the Python lines that load an export into a diffusers pipeline.

    place: folder or file of the export. modules: those of the adapter. Empty for language models
    and for the numbered modules of the first image LoRAs, which diffusers does not read.
    """
    widths = [(module.path, module.n) for module in modules]
    paths = [path for path, _ in widths]
    if not is_image_model(paths) or any(map(is_numbered, paths)):
        return []
    base, pipeline, how = base_model or "BASE_MODEL", "DiffusionPipeline", "from_pretrained"
    family = family_of(widths)
    if family and base.endswith((".safetensors", ".ckpt")):
        # One file does not state its pipeline, as a folder does.
        xl = "XL" if family.endswith("XL") else ""
        pipeline, how = f"StableDiffusion{xl}Pipeline", "from_single_file"
    return [
        f"from diffusers import {pipeline}",
        "",
        f"pipeline = {pipeline}.{how}({json.dumps(base)})",
        f"pipeline.load_lora_weights({json.dumps(place)})",
    ]


def card_of(task: TaskAdapter, library: str, as_it_was: bool) -> str:
    """Return the card: the metadata of hubs, then the folder's contents, its error, and its harm.

    as_it_was: as in :func:`write_card`.
    """
    base = task.base_model
    # A JSON string is one of YAML too.
    named = [f"base_model: {json.dumps(base, ensure_ascii=False)}\n"] if base else []
    head = "".join(["---\n", *named, f"library_name: {library}", _MARK])
    entry = task.entry
    modules = [task.bundle.core.modules[i] for i in entry.modules]
    about = f"An adapter of {base_words(base, modules)}, out of a bundle of"
    # What a method made is kept bit by bit, and is not the original.
    if entry.lossless and "method" not in task.bundle.recipe:
        weights = "Its tensors are those of the original, bit by bit."
        if not as_it_was:
            weights = "Its numbers follow from those of the original, and are in another form."
    else:
        how = ", estimated" if states_estimates(task.bundle.recipe) else ""
        weights = f"The relative error of its weights is {entry.error:.4g} (Frobenius norms{how})."
    paths = [module.path for module in modules]
    parts = [f"# {task.name}", f"{about} hydraopt. {weights}"]
    if entry.harm is not None:
        parts.append(harm_text(entry.harm, answer_tokens_in(task.bundle.recipe)))
    elif not is_image_model(paths):
        parts.append("Harm: not measured.")
    if library == "diffusers" and (lines := load_lines(base, task.name, modules)):
        parts.append("\n".join(["```python", *lines, "```"]))
    return head + "".join(f"\n{part}\n" for part in parts)


def harm_text(harm: Harm, tokens: int) -> str:
    """Describe the measured harm in three sentences.

    tokens: maximum number of tokens per answer that were judged.
    """
    on = "that no part was trained on" if harm.held_out else "that parts of it were trained on"
    prompts = "prompt" if harm.answers == 1 else "prompts"
    change = "changes" if harm.changed == 1 else "change"
    return (
        f"Of the original adapter's answers to {harm.answers:,} {prompts} {on}, {harm.changed:,} "
        f"{change}; {100 * harm.likely:.2f} % are likely to. KL from the original is "
        f"{harm.kl:.3g} nats an answer. Of an answer the first {tokens:,} tokens count."
    )


def _is_anothers(file: Path) -> bool:
    """Return True if there is a card that was not written by an export of a task."""
    if not file.exists() and not file.is_symlink():
        return False
    try:
        return _MARK.encode() not in read_regular(file, _MOST_BYTES)
    except OSError:
        return True
