"""Export a task as a PEFT adapter: config, weights, model card.

The scale is folded into B and the config says alpha = rank for every module, so that no reader can
get rsLoRA or patterns wrong. The exception is adapters whose initialisation changes the base model
(PiSSA and its kin): that change depends on rank and scale, so these adapters keep the rank and
scale of their config.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters import (
    Adapter,
    RawTensor,
    family_of,
    is_image_model,
    is_numbered,
    ranks_and_alphas,
    read_adapter,
    resolved_config,
    torch_dtype,
    tuner_named,
    written_config,
)
from hydraopt.bundle.entries import Harm, ModuleEntry, answer_tokens_in, states_estimates
from hydraopt.bundle.peft.extras import check_extras, exported_extras
from hydraopt.bundle.peft.pairs import Pair, check_room, pairs_of
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import dtype_named, file_chunks, rounded
from hydraopt.errors import AdapterFormatError, ExportError, UsageError, explain, require
from hydraopt.files import (
    check_apart,
    destination,
    read_regular,
    replaced_folder,
    to_json,
    write_atomically,
)

_DO = "Give another name, or overwrite it with --force (overwrite=True)"


def check_target(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a file, or a folder with files and not ``overwrite``.

    Raises also as :func:`hydraopt.files.outputs.destination`.

    An adapter that lies there may be the only copy of what was trained.
    """
    destination(target)
    if target.exists() and not target.is_dir():
        raise UsageError(explain("a file is in the way of the folder", file=target))
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UsageError(explain("folder has files in it", file=target, do=_DO))


def check_file(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a folder, or a file and not ``overwrite``.

    Raises also as :func:`hydraopt.files.outputs.destination`.
    """
    destination(target)
    if target.is_dir():
        raise UsageError(explain("a folder is in the way of the file", file=target))
    if target.exists() and not overwrite:
        raise UsageError(explain("file is there already", file=target, do=_DO))


def read_back(path: Path) -> Adapter:
    """Read a written adapter back with our own reader.

    The reader checks that headers, config, shapes and ranks agree.
    Raises ExportError if it is not a whole adapter.
    """
    try:
        return read_adapter(path)
    except AdapterFormatError as error:
        raise ExportError(
            error.within("what was to be exported is not a whole adapter: ")
        ) from error


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


CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def export_peft(
    task: TaskAdapter,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "same",
    uniform_rank: bool = False,
    overwrite: bool = False,
) -> None:
    """Write ``task`` as a PEFT adapter folder, which ``PeftModel.from_pretrained`` loads.

    dtype: of the low-rank factors: "same" as the original's, "float16", "bfloat16", "float32".
        Everything else keeps its own type and bytes.
    uniform_rank: one rank for all modules, padded with zeros, as vLLM wants it.
    overwrite: also write into a folder that has files in it.

    A lossless task that was a PEFT adapter comes back as it was, tensor for tensor and config, with
    dtype "same" and without ``uniform_rank``. A README.md says what was measured of the task,
    unless one of another author lies there. The folder appears, or is exchanged for an older one,
    in one step; other files of the older one stay.

    Raises ExportError if PEFT cannot hold something or a number does not fit the dtype; the folder
    is then as it was. UsageError for a folder in the way, or one that is around the bundle.
    """
    target = Path(folder)
    check_apart(target, [task.bundle.path])
    check_target(target, overwrite)
    metadata = None
    own = dtype == "same" or dtype_named(dtype, task.entry.dtype) == task.entry.dtype
    if task.entry.lossless and task.entry.format == "peft" and own and not uniform_rank:
        config, tensors, metadata = task.config, task.tensors, task.entry.metadata
    else:
        config, tensors = peft_adapter(task, dtype, uniform_rank)
    write_peft(task, target, config, tensors, metadata)


def peft_adapter(
    task: TaskAdapter, dtype: object = "same", uniform_rank: bool = False
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Return config and tensors of the task as PEFT takes them; see :func:`export_peft`."""
    if task.entry.format == "peft" and tuner_named(task.config) != "LORA":
        from hydraopt.bundle.peft.pairs import tuner_adapter

        return tuner_adapter(task, dtype, uniform_rank)
    kind = dtype_named(dtype, task.entry.dtype)
    planned, tensors = _planned(task, uniform_rank), dict[str, RawTensor]()
    extras = exported_extras(task, unfolded=planned.kept)
    _check_distinct(task, planned.pairs, extras)
    for pair, (rank, scale) in planned.pairs.items():
        for key, values in zip(pair.keys, pair.tensors(rank, scale), strict=True):
            tensors[key] = rounded(key, values, kind, task.name)
    config = _config(task, planned)
    return config, {**tensors, **extras}


def check_peft(task: TaskAdapter) -> None:
    """Raise ExportError for a coded task of PEFT's format that cannot be written as one again.

    Names, shapes, ranks and the settings that count are checked, no number is rounded: a dtype that
    is too narrow is the export's affair. Tasks of other formats and lossless ones pass.
    """
    if task.entry.lossless or task.entry.format != "peft":
        return
    if tuner_named(task.config) != "LORA":
        from hydraopt.bundle.peft.pairs import check_tuner

        check_tuner(task)
        return
    planned = _planned(task, False)
    _check_distinct(task, planned.pairs, check_extras(task, unfolded=planned.kept))


def torch_state_dict(task: TaskAdapter, dtype: object = None) -> dict[str, Any]:
    """Return the tensors of :func:`peft_adapter` as torch tensors."""
    require("torch")
    import torch

    state = {}
    for key, tensor in peft_adapter(task, dtype)[1].items():
        flat = (
            torch.frombuffer(bytearray(tensor.raw()), dtype=torch.uint8)
            if tensor.nbytes
            else (torch.empty(0, dtype=torch.uint8))
        )
        state[key] = flat.view(torch_dtype(tensor.dtype)).reshape(tensor.shape)
    return state


# --- ranks and config -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Planned:
    """Layout of an export.

    pairs: of a LoRA, each with its rank and its scale.
    kept: ranks and scales are those of the config.
    """

    pairs: Mapping[Pair, tuple[int, float]]
    kept: bool


def _planned(task: TaskAdapter, uniform_rank: bool) -> _Planned:
    """Plan the layout of an export; raise ExportError for what PEFT cannot hold."""
    pairs, kept = pairs_of(task, task.factors()), task.kept_ranks
    if kept is None:
        ranks = _ranks(task, pairs, uniform_rank)
        sizes = {pair: (ranks[pair.path], 1.0) for pair in pairs}
    elif uniform_rank and pairs:
        raise _cannot(task, "PiSSA and its kin change the base by rank, so one rank does not fit")
    else:
        sizes = {pair: kept.of(pair.module.path) for pair in pairs}
        for pair, (rank, _) in sizes.items():
            if pair.rank > rank:
                what = f"{pair.path} has {pair.rank} parts, and its initialisation ties the base"
                raise _cannot(task, f"{what} to rank {rank}")
    check_room(task, ((pair, rank) for pair, (rank, _) in sizes.items()))
    return _Planned(sizes, kept is not None)


def _check_distinct(task: TaskAdapter, pairs: Iterable[Pair], extras: Iterable[str]) -> None:
    names = Counter((*extras, *(key for pair in pairs for key in pair.keys)))
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise _cannot(task, f"two tensors would have the name {twice!r}")


def _ranks(task: TaskAdapter, pairs: Sequence[Pair], uniform: bool) -> dict[str, int]:
    """Return the rank of each settings path; pairs on one wrapped layer share it."""
    ranks: dict[str, int] = {}
    for pair in pairs:
        ranks[pair.path] = max(ranks.get(pair.path, 1), pair.rank)
    for pair in pairs:
        # Two pairs of one path may want different multiples; both divide their product.
        ranks[pair.path] = -(-ranks[pair.path] // pair.multiple) * pair.multiple
    if ranks and (uniform or task.config.get("target_parameters")):
        # PEFT cannot vary the rank between parameters that it wraps directly.
        multiple = math.lcm(*(pair.multiple for pair in pairs))
        most = -(-max(ranks.values()) // multiple) * multiple
        ranks = dict.fromkeys(ranks, most)
    return ranks


def _config(task: TaskAdapter, planned: _Planned) -> dict[str, Any]:
    ranks = {pair.path: rank for pair, (rank, _) in planned.pairs.items()}
    config: Mapping[str, Any] = task.config
    if task.entry.lossless:
        config = resolved_config(config, ranks, planned.kept)
    config = written_config(config, ranks, task.base_model)
    kinds = set(task.extra_kinds.values())
    if "dora_magnitude" in kinds:
        config["use_dora"] = True
    if "lora_bias" in kinds:
        config["lora_bias"] = True
    if task.entry.format == "loralib":
        # Heads and the like: PEFT loads them if their modules are named.
        saved = {key.rpartition(".")[0] for key, x in task.extra_kinds.items() if x == "saved"}
        config |= {"modules_to_save": sorted(saved)} if saved else {}
    if planned.kept:
        return config
    if isinstance(config.get("init_lora_weights"), str):
        # A start that leaves the base alone means nothing to trained factors, and PEFT refuses
        # some for their rank: "orthogonal" for an odd one.
        config["init_lora_weights"] = True
    # The largest rank, so that readers which know no patterns make room enough.
    r = max(ranks.values(), default=1)
    settings = {path: (rank, rank) for path, rank in sorted(ranks.items())}
    return {**config, **to_json(ranks_and_alphas(settings, r))}


def _cannot(task: TaskAdapter, what: str) -> ExportError:
    do = "Merge it with --lossless, or leave out what PEFT cannot hold"
    return ExportError(
        explain(f"cannot be written as a PEFT adapter: {what}", adapter=task.name, do=do)
    )


# --- files ------------------------------------------------------------------------------------


def write_peft(
    task: TaskAdapter,
    target: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter folder and the task's card; it appears whole.

    metadata: of the original's file, where these are its own tensors, bit by bit. The target has to
    have passed :func:`hydraopt.bundle.peft.folder.check_target`.
    """
    with replaced_folder(target) as folder:
        write_atomically(folder / WEIGHTS, file_chunks(tensors, metadata))
        # As PEFT writes it, down to the missing newline.
        text = json.dumps(config, indent=2, sort_keys=True)
        write_atomically(folder / CONFIG, [text.encode()])
        write_card(folder, target, task, "peft", as_it_was=metadata is not None)
