"""``hydraopt export``."""

from __future__ import annotations

from pathlib import Path

import click

from hydraopt.cli.common import emit_json, json_option, say

__all__ = ["export"]


@click.command()
@click.argument("bundle")
@click.argument("tasks", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every task of the bundle.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Where to write.")
@click.option(
    "--dtype",
    default="same",
    show_default=True,
    help="Of the factors: float32, float16, bfloat16, or same as the original.",
)
@click.option("--uniform-rank", is_flag=True, help="One rank for all modules, as vLLM wants it.")
@click.option("--overwrite", is_flag=True, help="Replace adapters that are there already.")
@json_option
def export(
    bundle: str,
    tasks: tuple[str, ...],
    everything: bool,
    output: str,
    dtype: str,
    uniform_rank: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write TASKS of BUNDLE as PEFT adapter folders.

    One task: DIR is its folder. Several, or --all: DIR/TASK. Ranks may differ between modules
    (rank_pattern); the scale is inside B, and lora_alpha equals r.

    \b
    Example:
      hydraopt export phone.hydra.safetensors numbers-de -o numbers-de
      hydraopt export phone.hydra.safetensors --all -o adapters --dtype float16 --uniform-rank
    """
    if everything == bool(tasks):
        raise click.UsageError("name the tasks to export, or pass --all")
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.export import export_peft

    opened = open_bundle(bundle)
    names = list(opened) if everything else list(dict.fromkeys(tasks))
    chosen = [opened[name] for name in names]  # a wrong name is refused before anything is written
    single = len(names) == 1 and not everything
    written = []
    for name, task in zip(names, chosen, strict=True):
        folder = Path(output) if single else Path(output) / name
        export_peft(task, folder, dtype=dtype, uniform_rank=uniform_rank, overwrite=overwrite)
        written.append({"task": name, "folder": str(folder)})
        if not as_json:
            say(f"{name} -> {folder}")
    if as_json:
        emit_json({"schema": "hydraopt.export/1", "bundle": bundle, "written": written})
