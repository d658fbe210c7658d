"""Export a task as an ``.onnx_adapter`` file, for models whose inputs are LoRA factors.

What onnxruntime does with one (``RunOptions.add_active_adapter``, ``Adapters`` of
onnxruntime-genai): each tensor of the file becomes the model's input of that name. Nothing is
scaled. Names and orientation are therefore those of the model, and what makes such models is Olive:
its ``convert-adapters`` and its pass ExtractAdapters call the inputs MODULE.lora_A.weight (n, r)
and MODULE.lora_B.weight (r, m), the scale inside B, and share one symbol for all ranks.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.bundle import Pair, TaskAdapter, check_file, check_room, dtype_named, rounded
from hydraopt.codec import Array
from hydraopt.errors import ExportError, UsageError, explain, require
from hydraopt.export.modules import plain_pairs, refused
from hydraopt.files import check_apart, replaced_file

_ENGINE: Final = "onnxruntime"
_HALVES: Final = ("lora_A", "lora_B")
# numpy has no bfloat16, so its bits are handed over as whole numbers.
_STORED: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_CODES: Final = {"F32": 1, "F16": 10, "BF16": 16}
"""onnx.TensorProto.DataType of each."""
_DTYPES: Final = {code: dtype for dtype, code in _CODES.items()}


@dataclass(frozen=True)
class LoraInput:
    """Input of the model that takes a half of a pair.

    shape: (n, r) or (r, m), None where any size will do.  dtype: None for one that we do not write.
    required: the model has no value of its own for it.
    """

    name: str
    shape: tuple[int | None, int | None]
    dtype: str | None
    required: bool


Inputs = Mapping[tuple[str, str], LoraInput]
"""Inputs by (module path, half), the path as :func:`_plain` spells it."""


def export_onnx(
    task: TaskAdapter,
    file: str | os.PathLike[str],
    *,
    dtype: str = "same",
    base: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``task`` in onnxruntime's adapter format.

    dtype: "float32", "float16", "bfloat16". "same" is that of the model's inputs with ``base``;
        else float16 where the original has it, and float32.
    base: the model with LoRA inputs, an .onnx file or a folder with model.onnx. Names, shapes and
        types are then its own, and layers that the task leaves alone get zeros if the model needs
        them. Weights are not read.
    overwrite: replace a file of that name.

    All pairs have one rank, padded with zeros. The scale is inside lora_B; onnxruntime knows no
    alpha. The file appears at once and whole, after it was read back. Raises ExportError, naming
    adapter and module, for what such inputs cannot hold or the model lacks, or if the onnxruntime
    package is missing (with ``base`` also onnx); UsageError for a file in the way or a base that
    cannot be read.
    """
    target = Path(os.path.abspath(file))
    check_apart(target, [task.bundle.path, *([base] if base is not None else [])])
    check_file(target, overwrite)
    runtime = _package("onnxruntime")
    inputs = _inputs(Path(base)) if base is not None else None
    kind = _dtype(task, dtype, inputs)
    pairs = plain_pairs(task, _ENGINE, base=base)
    rank = _rank(task, pairs, inputs)
    check_room(task, ((pair, rank) for pair in pairs))
    tensors: dict[str, Array] = {}
    for pair in pairs:
        a, b = pair.tensors(rank, 1.0)
        for half, values in zip(_HALVES, (a.T, b.T), strict=True):
            tensors[_name(task, pair, half, values.shape, inputs)] = values
    tensors |= _missing(task, tensors, rank, inputs)
    with replaced_file(target, ".onnx_adapter") as made:
        _write(runtime, made, task, kind, tensors)
        _read_back(runtime, made, task, kind, tensors)


def _package(name: str) -> Any:
    require(name)
    return importlib.import_module(name)


def _inputs(base: Path) -> dict[tuple[str, str], LoraInput]:
    """Return the LoRA inputs of a model; UsageError for a file that has none."""
    onnx = _package("onnx")
    file = base / "model.onnx" if base.is_dir() else base
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except Exception as error:  # protobuf raises types of its own
        raise _unreadable(file, str(error) or type(error).__name__) from error
    given = {x.name for x in graph.initializer}
    inputs: dict[tuple[str, str], LoraInput] = {}
    for x in graph.input:
        key = _plain(x.name)
        if key is None:
            continue
        sizes = [int(d.dim_value) or None for d in x.type.tensor_type.shape.dim]
        if len(sizes) != 2 or key in inputs:
            raise _unreadable(file, f"an input {x.name!r} of {len(sizes)} axes, or twice")
        dtype = _DTYPES.get(x.type.tensor_type.elem_type)
        inputs[key] = LoraInput(x.name, (sizes[0], sizes[1]), dtype, x.name not in given)
    if not inputs:
        raise _unreadable(file, "a model without inputs named lora_A and lora_B")
    return inputs


def _plain(name: str) -> tuple[str, str] | None:
    """Return (module path, half) of a LoRA input, whoever named it; None for other inputs.

    Olive's names from PEFT are MODULE.lora_A.weight; exporters of torch keep PEFT's prefix and the
    adapter's name; onnxruntime-genai's builder says attn for self_attn, and names its MatMul.
    """
    path, half, rest = name.rpartition(".lora_")
    if not half or rest.split(".")[0] not in ("A", "B"):
        return None
    while path.startswith("base_model.model."):
        path = path.removeprefix("base_model.model.")
    return _module(path), f"lora_{rest[0]}"


def _module(path: str) -> str:
    return ".".join("self_attn" if part == "attn" else part for part in path.split("."))


def _dtype(task: TaskAdapter, dtype: str, inputs: Inputs | None) -> str:
    """Return the dtype to write, as safetensors names it."""
    wanted = {x.dtype for x in inputs.values()} if inputs is not None else set()
    if len(wanted) > 1 or None in wanted:
        raise refused(task, _ENGINE, "inputs that are not all float32, float16 or bfloat16")
    named = dtype_named(dtype, task.entry.dtype)
    if wanted:
        (own,) = wanted
        if dtype != "same" and named != own:
            raise UsageError(
                explain("the model takes another type", got=dtype, expected=own, do="Leave --dtype")
            )
        return str(own)
    if dtype == "same":
        return "F16" if named == "F16" else "F32"
    if named not in _STORED:
        raise UsageError(
            explain("unknown dtype", got=dtype, expected="float32, float16 or bfloat16")
        )
    return named


def _rank(task: TaskAdapter, pairs: list[Pair], inputs: Inputs | None) -> int:
    """Return one rank for all: the model's, if it is fixed, else the task's largest."""
    most = max(pair.rank for pair in pairs)
    fixed = {x.shape[1 if half == "lora_A" else 0] for (_, half), x in (inputs or {}).items()} - {
        None
    }
    if not fixed:
        return most
    (rank, *others) = sorted(x for x in fixed if x is not None)
    if others:
        raise refused(task, _ENGINE, f"one rank for a model of ranks {sorted(map(str, fixed))}")
    if most > rank:
        worst = max(pairs, key=lambda pair: pair.rank).path
        raise refused(task, _ENGINE, f"rank {most} in a model whose inputs have {rank}", worst)
    return rank


def _name(
    task: TaskAdapter, pair: Pair, half: str, shape: tuple[int, ...], inputs: Inputs | None
) -> str:
    """Return the input for a half of a pair, checked against the model if there is one."""
    if inputs is None:
        return f"{pair.path}.{half}.weight"
    own = inputs.get((_module(pair.path), half))
    if own and all(x in (None, y) for x, y in zip(own.shape, shape, strict=True)):
        return own.name
    raise ExportError(
        explain(
            "the model has no such input",
            adapter=task.name,
            module=pair.path,
            got=f"{own.name} {own.shape}" if own else f"none for {half}",
            expected=shape,
            do="Give the model that was made for such adapters, with LoRA inputs for them",
        )
    )


def _missing(
    task: TaskAdapter, tensors: Mapping[str, Array], rank: int, inputs: Inputs | None
) -> dict[str, Array]:
    """Return zeros for inputs that the model needs and the task does not have."""
    zeros: dict[str, Array] = {}
    for (path, half), x in (inputs or {}).items():
        if not x.required or x.name in tensors:
            continue
        shape = tuple(rank if size is None else size for size in x.shape)
        if x.shape[0 if half == "lora_A" else 1] is None:
            raise refused(task, _ENGINE, f"nothing for {x.name}, whose size it does not say", path)
        zeros[x.name] = np.zeros(shape)
    return zeros


def _write(
    runtime: Any, file: Path, task: TaskAdapter, kind: str, tensors: Mapping[str, Array]
) -> None:
    parameters = {}
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        data = rounded(name, values, kind, task.name, "Choose --dtype float32").raw()
        stored = np.frombuffer(data, _STORED[kind]).reshape(values.shape).copy()
        value = runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(stored, _CODES[kind])
        parameters[name] = value
    form = runtime.AdapterFormat()
    form.set_adapter_version(1)
    form.set_model_version(1)
    form.set_parameters(parameters)
    form.export_adapter(str(file))


def _read_back(
    runtime: Any, file: Path, task: TaskAdapter, kind: str, tensors: Mapping[str, Array]
) -> None:
    read = runtime.AdapterFormat.read_adapter(str(file)).get_parameters()
    layout = {name: (tuple(x.shape()), x.element_type()) for name, x in read.items()}
    if layout != {name: (x.shape, _CODES[kind]) for name, x in tensors.items()}:
        raise ExportError(explain("the adapter file cannot be read back whole", adapter=task.name))


def _unreadable(file: Path, got: str) -> UsageError:
    return UsageError(
        explain(
            "cannot read the base model",
            file=file,
            got=got,
            expected="an .onnx file whose inputs are named MODULE.lora_A.weight, or its folder",
        )
    )
