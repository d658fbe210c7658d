"""Precision of the base model's matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["has_bfloat16", "products_of"]


def has_bfloat16() -> bool:
    """Return whether the processor has native bfloat16 matrix products."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@contextmanager
def products_of(kind: str) -> Iterator[None]:
    """Set the number type of float32 matrix products inside the block.

    kind: "float32", or "bfloat16" to round factors where torch gains by it, on processors with
        tiles for such products (AMX).
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if kind == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
