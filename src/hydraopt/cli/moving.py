"""``hydraopt split``, ``join``, ``pull`` and ``export``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydraopt.cli.options import common_options, force_option
from hydraopt.cli.terminal import check_local, check_target, emit_json, say, warn
from hydraopt.errors import BatchError, ExportError
from hydraopt.files import place_of, to_json
from hydraopt.notes import Note, counted, one_line

if TYPE_CHECKING:
    from hydraopt.bundle import Bundle, TaskAdapter


@click.command(short_help="Split a bundle into a core file and task files.")
@click.argument("bundle")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write to.")
@force_option("Overwrite core and task files in DIR that belong to the bundle.")
@common_options
def split(bundle: str, output: str, force: bool, as_json: bool) -> None:
    """Split BUNDLE into a core file and one file per task, in the folder DIR.

    DIR/NAME.core.safetensors holds the shared core, DIR/TASK.task.safetensors one task, and
    DIR/tasks.index.safetensors a list of the tasks. Commands accept DIR, or the core file, as a
    bundle of the tasks whose files are present. Nothing is coded again; join restores the bundle
    byte for byte.

    \b
    Example:
      hydraopt split phone.hydra.safetensors -o phone
      hydraopt export phone numbers-de -o numbers-de
    """
    from hydraopt.bundle import split as split_bundle

    written = split_bundle(bundle, output, force)
    total = sum(x.size for x in written)
    if as_json:
        files = [{"task": x.task, "file": str(x.path), "bytes": x.size} for x in written]
        result = {"bundle": str(place_of(bundle)), "bytes": total, "files": files}
        emit_json({"schema": "hydraopt.split/1", **result})
        return
    core, *tasks, index = written
    say(f"core -> {core.path}, {core.size:,} bytes")
    for one in tasks:
        say(f"{one.task} -> {one.path}, {one.size:,} bytes")
    say(f"index -> {index.path}, {index.size:,} bytes")
    say(f"{len(written)} files, {total:,} bytes")


@click.command(short_help="Join core and task files into one bundle.")
@click.argument("parts", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="BUNDLE", help="Bundle to write.")
@force_option("Overwrite an output that is not a bundle.")
@common_options
def join(parts: tuple[str, ...], output: str, force: bool, as_json: bool) -> None:
    """Join PARTS into one bundle: a core file and task files written by split, or their folder.

    All task files together give the original bundle, byte for byte; some of them give a bundle of
    these tasks. Tasks of another core, two tasks of one name, and two cores are refused.

    \b
    Example:
      hydraopt join phone -o phone.hydra.safetensors
      hydraopt join phone/phone.core.safetensors phone/dates-*.task.safetensors -o dates.safetensors
    """
    check_target(output, force)
    from hydraopt.bundle import join as join_bundle

    size, tasks = join_bundle(parts, output)
    if as_json:
        result = {"bundle": str(place_of(output)), "bytes": size, "tasks": tasks}
        emit_json({"schema": "hydraopt.join/1", **result})
        return
    say(f"{counted(len(tasks), 'task')} -> {place_of(output)}, {size:,} bytes")
    if not tasks:
        warn(Note("no_tasks", "no task file was given, so the bundle has no tasks"))


@click.command(short_help="Download a bundle, or some of its tasks.")
@click.argument("bundle")
@click.argument("tasks", nargs=-1)
@click.option("-o", "--output", metavar="DIR", help="Folder to write to. Default: the cache.")
@common_options
def pull(bundle: str, tasks: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Download BUNDLE, or TASKS of it, from an address to this machine.

    Without -o the bytes are stored in the cache, which commands use when they read this address.
    With -o, a bundle in one file is written to DIR as one file, or, for TASKS, as a core file and
    task files; the files of a folder are copied. A later pull adds tasks to DIR.

    \b
    Example:
      hydraopt pull s3://bucket/phone/ numbers-de
      hydraopt pull https://host/phone.hydra.safetensors numbers-de -o phone
    """
    if output is not None:
        check_local(output)
    from hydraopt.bundle import pull as pull_bundle

    done = pull_bundle(bundle, output, tasks or None)
    for warning in done.warnings:
        warn(warning)
    if as_json:
        emit_json(
            {
                "schema": "hydraopt.pull/1",
                "tasks": list(done.tasks),
                "bytes": done.size,
                "fetched_bytes": done.fetched,
                "files": [str(file) for file in done.files],
                "warnings": to_json(done.warnings),
            }
        )
        return
    for file in done.files:
        say(str(file))
    where = output if output is not None else "the cache"
    fetched = f"{done.fetched:,} were fetched"
    say(f"{counted(len(done.tasks), 'task')} -> {where}, {done.size:,} bytes; {fetched}")


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
    from hydraopt.bundle import open_bundle
    from hydraopt.export import export_task, find_format

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
    from hydraopt.files import name_inside

    return [name_inside(folder, f"{name}{suffix}") for name in names]
