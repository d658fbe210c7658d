"""Tensors that an adapter keeps whole, a trained head for one, in place of a model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydraopt.basemodel.model import misfit

__all__ = ["place_saved", "replaced"]


def place_saved(model: nn.Module, saved: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return the tensors, by path, in the type and on the device of the parameters they stand for.

    Raises AlignmentError if the model lacks one of them, or has it in another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    placed = {}
    for path, array in saved.items():
        own = parameters.get(path)
        if own is None or own.shape != array.shape:
            got = "no such tensor" if own is None else tuple(own.shape)
            raise misfit(model, f"cannot hold the saved tensor {path}", got, tuple(array.shape))
        placed[path] = torch.from_numpy(np.array(array, np.float32)).to(own)
    return placed


@contextmanager
def replaced(model: nn.Module, placed: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace these parameters of the model inside the block. For one thread at a time."""
    before: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for path, tensor in placed.items():
            place, _, name = path.rpartition(".")
            module = model.get_submodule(place)
            before.append((module, name, module._parameters[name]))
            module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        yield
    finally:
        for module, name, own in reversed(before):
            module._parameters[name] = own
