"""Ranks and scales of an adapter's config, by module, for adapters whose exports keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hydraopt.bundle.modules import ModuleEntry
from hydraopt.bundle.strictjson import amount, check, natural

__all__ = ["KeptRanks"]

_MOST_RANK: Final = (1 << 31) - 1


@dataclass(frozen=True)
class KeptRanks:
    """Rank and scale that the config of an adapter gives each of its modules.

    rank, scale: of all modules that ``exceptions`` does not name.
    exceptions: (rank, scale) by module path, each different from ``(rank, scale)``.

    The scale of a product of two factors is the same for both.
    """

    rank: int
    scale: float
    exceptions: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank, scale in ((self.rank, self.scale), *self.exceptions.values()):
            natural(rank, "a kept rank", 0, _MOST_RANK)
            amount(scale if type(scale) is bool else abs(scale), "size of a kept scale")
        alike = (self.rank, self.scale) in self.exceptions.values()
        check(not alike, "a kept rank is stated twice", self.exceptions)

    @classmethod
    def of_modules(cls, values: Mapping[str, tuple[int, float]]) -> KeptRanks:
        """Take the most common (rank, scale) for the default; ``values`` are by module path."""
        counts = Counter(values.values())
        usual = max(sorted(counts), key=counts.__getitem__) if counts else (1, 1.0)
        return cls(*usual, {path: x for path, x in values.items() if x != usual})

    def of(self, path: str) -> tuple[int, float]:
        """Return (rank, scale) of a module."""
        return self.exceptions.get(path, (self.rank, self.scale))

    def to_json(self, index: Mapping[str, int]) -> list[Any]:
        """Convert to JSON values; index: number of each module by path."""
        exceptions = sorted((index[path], *values) for path, values in self.exceptions.items())
        return [self.rank, self.scale, *map(list, exceptions)]

    @classmethod
    def from_json(cls, value: Any, modules: Sequence[ModuleEntry]) -> KeptRanks | None:
        """Convert JSON values; raise BundleFormatError for anything else."""
        if value is None:
            return None
        what = "[rank, scale, [module, rank, scale], ...]"
        check(isinstance(value, list) and len(value) >= 2, "kept ranks", value, what)
        exceptions, last = dict[str, tuple[int, float]](), -1
        for row in value[2:]:
            check(isinstance(row, list) and len(row) == 3, "kept ranks", row, what)
            natural(row[0], "module of a kept rank", last + 1, len(modules) - 1)
            last = row[0]
            exceptions[modules[last].path] = _values(*row[1:])
        return cls(*_values(*value[:2]), exceptions)


def _values(rank: Any, scale: Any) -> tuple[int, float]:
    check(type(scale) in (int, float), "a kept scale", scale, "a number")
    amount(abs(scale), "size of a kept scale")  # before it becomes a float
    return rank, float(scale)
