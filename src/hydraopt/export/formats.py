"""Formats that a task can be exported to: one row each, and one function for all."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydraopt.bundle import TaskAdapter, check_file, check_target
from hydraopt.errors import UsageError, explain


@dataclass(frozen=True)
class ExportFormat:
    """Format of exports.

    home: module and name of the function that writes it.
    suffix: suffix of a file, otherwise "".
    takes: options it supports, of dtype, base and uniform_rank.
    needs_base: whether a base is required.
    """

    home: str
    takes: frozenset[str]
    suffix: str = ""
    needs_base: bool = False

    @property
    def write(self) -> Callable[..., None]:
        """Function (task, target, overwrite=..., options in ``takes``), loaded on demand."""
        module, _, name = self.home.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        return function

    def check(self, target: Path, overwrite: bool) -> None:
        """Raise UsageError if something is in the way, as ``write`` would."""
        (check_file if self.suffix else check_target)(target, overwrite)

    def check_suffix(self, target: Path) -> None:
        """Raise UsageError for a folder that has the suffix of a file of another format."""
        if not self.suffix and target.suffix in {row.suffix for row in FORMATS.values()} - {""}:
            raise UsageError(
                explain(
                    "the format writes a folder, but the output has the suffix of a file",
                    file=target,
                    do="Pass another --format, or another name",
                )
            )


FORMATS: Final[Mapping[str, ExportFormat]] = {
    "peft": ExportFormat(
        "hydraopt.bundle.peft.folder:export_peft", frozenset({"dtype", "uniform_rank"})
    ),
    "vllm": ExportFormat("hydraopt.export.vllm:export_vllm", frozenset({"dtype", "base"})),
    "gguf": ExportFormat(
        "hydraopt.export.gguf:export_gguf", frozenset({"dtype", "base"}), ".gguf", True
    ),
    "mlx": ExportFormat("hydraopt.export.mlx:export_mlx", frozenset({"dtype", "base"})),
    "onnx": ExportFormat(
        "hydraopt.export.onnx:export_onnx", frozenset({"dtype", "base"}), ".onnx_adapter"
    ),
    "kohya": ExportFormat(
        "hydraopt.export.image:export_kohya", frozenset({"dtype"}), ".safetensors"
    ),
    "diffusers": ExportFormat(
        "hydraopt.export.image:export_diffusers", frozenset({"dtype", "uniform_rank"})
    ),
    "merged": ExportFormat("hydraopt.export.merged:export_merged", frozenset({"base"}), "", True),
}


def export_task(
    task: TaskAdapter,
    target: str | os.PathLike[str],
    *,
    format: str = "peft",
    dtype: str = "same",
    base: str | os.PathLike[str] | None = None,
    uniform_rank: bool = False,
    overwrite: bool = False,
) -> None:
    """Write ``task`` to ``target``, a folder, or a file for "gguf", "onnx" and "kohya".

    format: a key of :data:`FORMATS`; its own function says what it holds and what it refuses.
    Raises UsageError for an option that the format does not have, and what that function raises.
    """
    row = find_format(format)
    options: dict[str, object] = {"dtype": dtype, "base": base, "uniform_rank": uniform_rank}
    unset = {"dtype": "same", "base": None, "uniform_rank": False}
    for name, value in options.items():
        if name not in row.takes and value != unset[name]:
            raise UsageError(explain(f"--format {format} has no option {name}", got=repr(value)))
    if row.needs_base and base is None:
        raise UsageError(
            explain(
                f"--format {format} needs the base model",
                do="Give its folder with --base; for gguf its .gguf file will do as well",
            )
        )
    chosen = {name: value for name, value in options.items() if name in row.takes}
    row.write(task, Path(target), overwrite=overwrite, **chosen)


def find_format(name: str) -> ExportFormat:
    """Return the row of a format, which another package may register as an entry point.

    Raises UsageError for a name that nobody has, PluginError for an entry point that is broken.
    """
    from hydraopt.codec import EXPORTER_GROUP, find_registered

    return find_registered("format", name, FORMATS, EXPORTER_GROUP, ExportFormat)
