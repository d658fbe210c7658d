"""Axes of pictures of score or error against size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["size_axis"]


def size_axis(axis: Any, ticks: Sequence[float]) -> None:
    """Put percent of the fp16 bytes along x: logarithmic, the ticks alone named."""
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
