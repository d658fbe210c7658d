"""A base model with one task's factors on it: hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    "factors_key",
    "hidden_states",
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


def load_model(
    base: str | Path, dtype: str = "float32", labels: int | None = None
) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a transformers folder or hub name, frozen, in eval mode.

    labels: not a language model, but a classifier of sequences with so many labels. Its head is
    random. Its ``pad_token_id`` is the tokenizer's, or EOS if the tokenizer has none, because
    transformers finds the last token of a row by it.

    Raises UsageError if transformers cannot load it, if its weight files are not those of the
    whole model, and for a name that is neither a folder nor OWNER/NAME: such a name would be
    searched for on the network for a minute.
    """
    if not (Path(base).is_dir() or (str(base).count("/") == 1 and str(base)[0] not in "./~")):
        raise UsageError(
            explain(
                f"there is no base model {base}",
                got="a file" if Path(base).exists() else "no folder of that name",
                expected="a folder that transformers can load, or a hub's OWNER/NAME",
            )
        )
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours stands there
    model, tokenizer = load_whole(base, dtype, labels)
    model.requires_grad_(False)
    model.train(False)
    if labels is not None:
        pad = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    return model, tokenizer


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
    handles = []
    try:
        for path, (b, a) in placed.items():
            handles.append(model.get_submodule(path).register_forward_hook(_adder(b, a)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(b: Tensor, a: Tensor) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(args[0], a), b)

    return hook


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
