"""``hydraopt export``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydraopt.cli.common import check_local, emit_json, say, warn
from hydraopt.cli.options import common_options, force_option
from hydraopt.errors import BatchError, ExportError
from hydraopt.files.url import place_of
from hydraopt.notes import Note
from hydraopt.values import one_line

if TYPE_CHECKING:
    from hydraopt.bundle.reader import Bundle
    from hydraopt.bundle.task import TaskAdapter

__all__ = ["FORMATS", "export"]

# Listed here because the help must not load the exporters; a test compares both lists.
FORMATS = ("peft", "vllm", "gguf", "mlx", "onnx", "kohya", "diffusers", "merged")


@click.command(short_help="Write tasks of a bundle for other tools.")
@click.argument("bundle")
@click.argument("tasks", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Export every task of the bundle.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder or file to write.")
@click.option(
    "--format",
    "file_format",
    metavar="|".join(FORMATS),
    default="peft",
    show_default=True,
    help="peft: adapter folders. vllm: adapter folders for vLLM and LoRAX. gguf: LoRA files for "
    "llama.cpp. mlx: folders for mlx-lm. onnx: files for models with LoRA inputs in onnxruntime. "
    "kohya and diffusers: files and folders for image models. merged: the base model with the task "
    "merged into its weights.",
)
@click.option(
    "--base",
    metavar="BASE",
    help="Base model. Required for merged (transformers folder) and gguf (folder or .gguf file), "
    "and if BUNDLE stores tensors as differences from it or copies of its weights. Optional for "
    "mlx and vllm (folder) and onnx (model with LoRA inputs).",
)
@click.option(
    "--dtype",
    default="same",
    show_default=True,
    help="Number type of the factors: float32, float16, bfloat16, or same as the original. For "
    "gguf: f32, f16 (also same) or q8_0. For onnx, same is the type of the model's inputs. Merged "
    "models keep the type of the base.",
)
@click.option(
    "--uniform-rank", is_flag=True, help="Use one rank for all modules (peft, diffusers)."
)
@force_option("Overwrite existing files, and write into folders that contain files.")
@common_options
def export(
    bundle: str,
    tasks: tuple[str, ...],
    everything: bool,
    output: str,
    file_format: str,
    base: str | None,
    dtype: str,
    uniform_rank: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write TASKS of BUNDLE for another tool: as adapters, or merged into the base model.

    For one task, DIR is its folder (gguf, onnx, kohya: its file). For several tasks or --all, each
    task is written to DIR/TASK (DIR/TASK.gguf, .onnx_adapter, .safetensors). In PEFT folders ranks
    may differ between modules, B includes the scale, and lora_alpha equals r. A task with tensors
    that the format cannot represent is refused, and the message names them; the other tasks
    are written.

    \b
    Example:
      hydraopt export phone.hydra.safetensors numbers-de -o numbers-de
      hydraopt export phone.hydra.safetensors --all -o adapters --format vllm
      hydraopt export phone.hydra.safetensors dates-de -o de.gguf --format gguf --base b.gguf
      hydraopt export phone.hydra.safetensors numbers-de -o merged --format merged --base BASE
    """
    check_local(output)
    if everything == bool(tasks):
        raise click.UsageError("name the tasks to export, or pass --all")
    from hydraopt.collection.opening import open_bundle
    from hydraopt.export.formats import export_task, find_format

    row = find_format(file_format)
    opened = open_bundle(bundle, tasks=None if everything else tasks)
    opened.give_base(base)
    names = list(opened) if everything else list(dict.fromkeys(tasks))
    if not names:
        warn(Note("no_tasks", "the bundle has no tasks, so nothing is written"))
    for name in names:
        opened[name]  # a wrong name is refused before anything is written
    single = len(names) == 1 and not everything
    if single:
        row.check_suffix(Path(output))
    places = [Path(output)] if single else _places(Path(output), names, row.suffix)
    for target in places:  # all of them, before one is written
        row.check(target, force)
    own = base if "base" in row.takes or opened.base is None else None
    how = functools.partial(export_task, format=file_format, dtype=dtype, base=own)
    how = functools.partial(how, uniform_rank=uniform_rank, overwrite=force)
    _write(opened, dict(zip(names, places, strict=True)), how, show=not as_json)
    if as_json:
        kind = "file" if row.suffix else "folder"
        made = [{"task": x, kind: str(y)} for x, y in zip(names, places, strict=True)]
        about = {"schema": "hydraopt.export/1", "bundle": str(place_of(bundle))}
        emit_json({**about, "written": made})


def _write(
    bundle: Bundle,
    places: Mapping[str, Path],
    how: Callable[[TaskAdapter, Path], None],
    show: bool,
) -> None:
    """Write every task that the format can hold, then raise the errors of the others.

    places: output of each task, by name. What a task has decoded is freed before the next one.
    """
    refused: list[ExportError] = []
    for name, target in places.items():
        try:
            how(bundle[name], target)
        except ExportError as error:
            # Its traceback, and those of its causes, hold what the task has decoded.
            error.__cause__ = error.__context__ = None
            refused.append(error.with_traceback(None))
            continue
        if show:
            say(f"{name} -> {target}")
    if len(refused) > 1:
        head = f"{len(refused)} of {len(places)} tasks cannot be exported"
        batch = BatchError("\n  ".join([head, *(one_line(str(error)) for error in refused)]))
        batch.problems = tuple(refused)
        raise batch
    if refused:
        raise refused[0]


def _places(folder: Path, names: Iterable[str], suffix: str) -> list[Path]:
    """Return the output of each task in ``folder``. Raises UsageError for a link there."""
    from hydraopt.files.outputs import name_inside

    return [name_inside(folder, f"{name}{suffix}") for name in names]
