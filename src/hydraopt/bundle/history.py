"""Origin of a task that was added after the merge: the date, and the hash of its file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from hydraopt.bundle.strictjson import check, digest

__all__ = ["Added", "added_from_json", "added_to_json", "check_added"]


@dataclass(frozen=True)
class Added:
    """Origin of a task that was added after the merge.

    day: date, ISO, in UTC. It has no time of day, so that the result of several additions on one
    day does not depend on their order.
    digest: first 16 hex digits of the sha256 of the adapter's tensor file.
    """

    day: str
    digest: str


def check_added(added: Any, where: str) -> None:
    """Raise BundleFormatError unless it is None or an Added that makes sense."""
    if added is None:
        return
    check(isinstance(added, Added), f"history of {where}", added, "an Added or None")
    check(_is_day(added.day), f"day of {where}", added.day, "YYYY-MM-DD")
    digest(added.digest, f"digest of {where}")


def _is_day(value: Any) -> bool:
    # Other spellings that fromisoformat takes are not the one of the format.
    if not isinstance(value, str) or len(value) != 10 or not value.isascii():
        return False
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def added_to_json(added: Added | None) -> list[str] | None:
    """Convert to JSON values; :func:`added_from_json` is the inverse."""
    return None if added is None else [added.day, added.digest]


def added_from_json(value: Any) -> Added | None:
    """Convert JSON values back to Added; raise BundleFormatError for anything else."""
    if value is None:
        return None
    check(isinstance(value, list) and len(value) == 2, "history of a task", value, "[day, digest]")
    return Added(*value)
