"""Start of a task in the manifest; see :mod:`hydraopt.linalg.start`."""

from __future__ import annotations

from typing import Any

from hydraopt.bundle.strictjson import check, natural
from hydraopt.linalg.start import MOST_NUMBERS, KnownStart

__all__ = ["check_start", "start_from_json", "start_to_json"]


def check_start(start: Any, where: str) -> None:
    """Raise BundleFormatError unless it is None or a KnownStart that a generator has."""
    if start is None:
        return
    check(isinstance(start, KnownStart), f"start of {where}", start, "a KnownStart or None")
    natural(start.seed, f"seed of the start of {where}", 0, (1 << 32) - 1)
    natural(start.numbers, f"numbers of the start of {where}", 1, MOST_NUMBERS)


def start_to_json(start: KnownStart | None) -> list[int] | None:
    """Convert to JSON values; :func:`start_from_json` is the inverse."""
    return None if start is None else [start.seed, start.numbers]


def start_from_json(value: Any) -> KnownStart | None:
    """Convert JSON values back to a KnownStart; raise BundleFormatError for anything else."""
    if value is None:
        return None
    check(isinstance(value, list) and len(value) == 2, "start of a task", value, "[seed, numbers]")
    return KnownStart(*value)
