"""Origin of a task that was added after the merge: the date, and the hash of its file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from hydraopt.bundle.strictjson import check, digest, text

__all__ = ["Added"]


@dataclass(frozen=True)
class Added:
    """Origin of a task that was added after the merge.

    day: date, ISO, in UTC. It has no time of day, so that the result of several additions on one
    day does not depend on their order.
    digest: first 16 hex digits of the sha256 of the adapter's tensor file.

    Raises BundleFormatError for other values.
    """

    day: str
    digest: str

    def __post_init__(self) -> None:
        text(self.day, "day of an addition")
        try:
            # Other spellings that fromisoformat takes are not the one of the format.
            right = date.fromisoformat(self.day).isoformat() == self.day
        except ValueError:
            right = False
        check(right, "day of an addition", self.day, "YYYY-MM-DD")
        digest(self.digest, "digest of an addition")
