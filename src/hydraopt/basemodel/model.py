"""A base model with one task's factors on it: hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.basemodel.encoding import Batch
from hydraopt.basemodel.loading import load_whole
from hydraopt.basemodel.memory import key_of
from hydraopt.errors import AlignmentError, UsageError, explain

__all__ = [
    "BATCH_TOKENS",
    "AnyFactors",
    "Placed",
    "TaskFactors",
    "attached",
    "attached_in_blocks",
    "factors_key",
    "hidden_states",
    "load_classifier",
    "load_model",
    "misfit",
    "of_head",
    "place",
    "states_of",
]

T = TypeVar("T")

BATCH_TOKENS = 1024
"""Padded tokens of a batch: large enough that matrix products run at full speed on a CPU."""

AnyFactors = tuple[NDArray[Any], NDArray[Any]]
"""Factors of any float type: B (m, r) with the scale inside, A (r, n)."""

TaskFactors = Mapping[str, AnyFactors]
"""A task's factors by module path."""


def load_model(base: str | Path, dtype: str = "float32") -> tuple[Any, Any]:
    """Load (model, tokenizer) from a transformers folder or hub name, frozen, in eval mode.

    Raises UsageError if transformers cannot load it, or if its weight files are not those of the
    whole model.
    """
    return _load(base, dtype)


def load_classifier(base: str | Path, labels: int) -> tuple[Any, Any]:
    """Load a base model as a classifier of sequences in float32, with a random head of ``labels``.

    Its ``pad_token_id`` is the tokenizer's, or EOS if the tokenizer has none, because transformers
    finds the last token of a row by it.
    """
    model, tokenizer = _load(base, "float32", labels)
    pad = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    return model, tokenizer


def _load(base: str | Path, dtype: str, labels: int | None = None) -> tuple[Any, Any]:
    _check_place(base)
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours stands there
    model, tokenizer = load_whole(base, dtype, labels)
    model.requires_grad_(False)
    model.train(False)
    return model, tokenizer


def _check_place(base: str | Path) -> None:
    """Raise UsageError for a name that is neither a folder nor a hub's OWNER/NAME.

    Such a name would be searched for on the network for a minute.
    """
    if Path(base).is_dir() or (str(base).count("/") == 1 and str(base)[0] not in "./~"):
        return
    raise UsageError(
        explain(
            f"there is no base model {base}",
            got="a file" if Path(base).exists() else "no folder of that name",
            expected="a folder that transformers can load, or a hub's OWNER/NAME",
        )
    )


Placed = Mapping[str, tuple[Tensor, Tensor]]
"""B and A by module path, as tensors of the model's dtype on its device."""


def factors_key(factors: TaskFactors) -> str:
    """Hash the factors that are attached to the model, in float32."""
    parts: list[bytes | str] = []
    for path in sorted(factors):
        parts.append(path)
        parts += [np.ascontiguousarray(x, np.float32).tobytes() for x in factors[path]]
    return key_of(parts)


def place(model: nn.Module, factors: TaskFactors) -> Placed:
    """Convert the factors to tensors, checked against the model.

    Raises AlignmentError if a module is missing or has another shape.
    """
    modules = dict(model.named_modules())
    placed = {}
    for path, (b, a) in factors.items():
        module = modules.get(path)
        shape = (b.shape[0], a.shape[1])
        own = None if module is None else _linear_shape(module)
        if module is None or own is None:
            kind = "no such module" if module is None else type(module).__name__
            raise misfit(model, f"has no linear module {path}", kind, shape)
        if own != shape:
            raise misfit(model, f"has module {path} in another shape", own, shape)
        first, second = (torch.from_numpy(np.array(x, np.float32)) for x in (b, a))
        weight: Any = module.weight
        placed[path] = (first.to(weight), second.to(weight))
    return placed


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a linear module; None of another one."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    # GPT-2's linear layers, which keep their weight as (inputs, outputs).
    return (module.nf, module.nx) if isinstance(module, Conv1D) else None


def misfit(
    model: Any,
    what: str,
    got: object,
    expected: object,
    do: str = "Give the base model that the adapters were trained on",
) -> AlignmentError:
    """Return the error that says which base model does not fit, and what it has instead."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return AlignmentError(
        explain(
            f"the base model ({type(model).__name__}) {what}",
            file=name or None,
            got=got,
            expected=expected,
            do=do,
        )
    )


@contextmanager
def attached(model: nn.Module, placed: Placed) -> Iterator[None]:
    """Add ``B (A x)`` to each named module's output inside the block, as PEFT does."""
    with attached_in_blocks(model, [(placed, None)]):
        yield


@contextmanager
def attached_in_blocks(
    model: nn.Module, blocks: Sequence[tuple[Placed, int | None]]
) -> Iterator[None]:
    """Attach other factors to each block of consecutive rows of the batch.

    blocks: (factors, rows); rows is None for all remaining rows.

    Raises AlignmentError where a module of several blocks does not receive all tokens of the batch
    row by row, because tokens then cannot be assigned to rows.
    """
    by_path: dict[str, list[tuple[slice, Tensor, Tensor]]] = {}
    start = 0
    for placed, rows in blocks:
        stop = None if rows is None else start + rows
        for path, (b, a) in placed.items():
            by_path.setdefault(path, []).append((slice(start, stop), b, a))
        start = stop or start
    ids: list[int] = []
    handles = []
    if not all(map(_is_whole, by_path.values())):
        embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
        handles.append(embeddings.register_forward_hook(_shape_to(ids)))
    try:
        for path, changes in by_path.items():
            hook = _adder(changes) if _is_whole(changes) else _row_adder(model, path, changes, ids)
            handles.append(model.get_submodule(path).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape_to(ids: list[int]) -> Any:
    """Return a hook of the input embeddings that notes the (rows, length) of what they see."""

    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        ids[:] = output.shape[:-1]

    return hook


def _is_whole(changes: Sequence[tuple[slice, Tensor, Tensor]]) -> bool:
    return len(changes) == 1 and changes[0][0] == slice(0, None)


def _adder(changes: Sequence[tuple[slice, Tensor, Tensor]]) -> Any:
    """Return a hook that adds the one change to all that its module sees."""
    ((_, b, a),) = changes

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(args[0], a), b)

    return hook


def _row_adder(
    model: nn.Module,
    path: str,
    changes: Sequence[tuple[slice, Tensor, Tensor]],
    ids: Sequence[int],
) -> Any:
    """Return a hook that adds each change to its rows.

    ids: (rows, length) of the batch, once known.
    """

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        each = _entries_of_a_row(model, path, tuple(args[0].shape), ids)
        output = output.clone()
        for rows, b, a in changes:
            stop = None if rows.stop is None else rows.stop * each
            some = slice(rows.start * each, stop)
            output[some] += F.linear(F.linear(args[0][some], a), b)
        return output

    return hook


def _entries_of_a_row(
    model: nn.Module, path: str, shape: tuple[int, ...], ids: Sequence[int]
) -> int:
    """Return the number of entries per row of the batch in a module's first dimension.

    This is one, or the number of tokens where the model passes rows and tokens as one dimension.
    """
    rows, length = ids
    if len(shape) > 2 and shape[0] == rows:
        return 1
    if len(shape) == 2 and shape[0] == rows * length:
        return length
    raise misfit(
        model,
        f"gives module {path} a part of a batch, so that factors cannot be put on row by row",
        shape,
        f"{rows} rows of {length} tokens",
        "Ask one adapter at a time",
    )


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Return the inputs of the output layer at the target positions, (N, width)."""
    return states_of(model, batch.ids, batch.parents).flatten(0, 1)[batch.where]


def states_of(model: Any, ids: Tensor, parents: Tensor | None) -> Tensor:
    """Return the inputs of the output layer at all positions, (rows, length, width).

    ids, parents: as in a Batch.

    Rows of plain text need no mask: with causal attention, padding on the right cannot reach a real
        token.
    """
    more = {}
    if parents is not None:
        hidden, places = _hidden_from(parents)
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
        more = {"attention_mask": mask[:, None], "position_ids": places}
    body = model.base_model  # under whatever name the architecture has it
    states: Tensor = body(input_ids=ids, use_cache=False, **more).last_hidden_state
    return states


def _hidden_from(parents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks and positions of texts that share a tree of tokens.

    A token sees itself and its ancestors.

    Returns whether the second token is hidden from the first, (rows, length, length), and the
    position of each token in its own text, (rows, length).
    """
    above = parents.numpy()  # an operation of torch takes several times as long
    rows, length = above.shape
    every = np.arange(rows)
    visible = np.tile(np.eye(length, dtype=bool), (rows, 1, 1))
    places = np.zeros_like(above)
    for node in range(1, length):
        before = above[:, node]
        some = before >= 0
        visible[:, node] |= visible[every, before] & some[:, None]
        places[:, node] = (places[every, before] + 1) * some
    return torch.from_numpy(~visible), torch.from_numpy(places)


def of_head(model: Any, by_path: Mapping[str, T]) -> dict[str, T]:
    """Return the entries of the output layer, whose effect hidden states do not include."""
    head = model.get_output_embeddings()
    known = dict(model.named_modules()) if by_path else {}
    return {path: x for path, x in by_path.items() if known.get(path) is head}
