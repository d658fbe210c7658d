"""Modules of a bundle without their weights, to attach tasks without a base model."""

from __future__ import annotations

import torch
from torch import nn

from hydraopt.adapters.beyond import not_linear
from hydraopt.bundle.reader import Bundle

__all__ = ["frame_of"]


class _Node(nn.Module):
    """Module that may be linear: it then states its sizes and the type it computes in."""

    out_features: int | None = None
    in_features: int | None = None
    compute_dtype: torch.dtype | None = None


def frame_of(bundle: Bundle, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model with the linear modules of all tasks of the bundle, that cannot be run.

    :func:`hydraopt.attach` decodes onto it what it would onto the base model, in ``dtype`` on the
    CPU. Modules of other kinds are left out.
    """
    root = _Node()
    for entry in (entry for task in bundle.values() for entry in task.modules.values()):
        if not_linear(entry) is not None:
            continue
        node = root
        for name in entry.path.split("."):
            child = node._modules.get(name)
            if not isinstance(child, _Node):
                child = _Node()
                node.add_module(name, child)
            node = child
        node.out_features, node.in_features, node.compute_dtype = entry.m, entry.n, dtype
    return root
