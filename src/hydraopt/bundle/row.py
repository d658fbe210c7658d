"""Row of a task in a listing: facts about it that need no access to its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from hydraopt.adapters.model import check_name
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.history import Added
from hydraopt.bundle.spec import TaskEntry
from hydraopt.bundle.strictjson import amount, bad, check, natural, pack_fields, unpack_fields
from hydraopt.errors import UsageError

__all__ = ["ROW_DEFAULTS", "TaskRow", "row_of_task"]

_SETTINGS: Final = ("peft_type", "task_type", "use_dora")
_LONGEST: Final = 64
"""Maximum characters of a setting that is kept."""
_MOST: Final = 1 << 50


@dataclass(frozen=True)
class TaskRow:
    """Row of one task of a collection.

    error, lossless, numbers, harm, added: as for :class:`hydraopt.bundle.spec.TaskEntry`.
    own_bytes: bytes of its stream.
    carried_bytes: bytes of its tensors kept bit by bit.
    modules, tensors: number of modules and of coded tensors.
    config: the settings of its config that describe how it was trained.
    """

    name: str
    error: float = 0.0
    lossless: bool = False
    numbers: int = 0
    own_bytes: int = 0
    carried_bytes: int = 0
    modules: int = 0
    tensors: int = 0
    harm: Harm | None = None
    added: Added | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            check_name(self.name if isinstance(self.name, str) else "")
        except UsageError as error:
            bad(f"task name: {error}", self.name)
        where = f"the row of {self.name!r}"
        amount(self.error, f"error in {where}")
        check(type(self.lossless) is bool, f"lossless in {where}", self.lossless)
        for key in ("numbers", "own_bytes", "carried_bytes", "modules", "tensors"):
            natural(getattr(self, key), f"{key} in {where}", 0, _MOST)
        right = isinstance(self.config, dict) and set(self.config) <= set(_SETTINGS)
        check(right and all(map(_is_kept, self.config.values())), f"config in {where}", self.config)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; :meth:`from_json` is the inverse."""
        row = {x.name: getattr(self, x.name) for x in fields(self)}
        return {**row, "harm": pack_fields(self.harm), "added": pack_fields(self.added)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TaskRow:
        """Convert JSON values to a row; raise BundleFormatError for anything else."""
        harm = unpack_fields(Harm, row["harm"], "harm of a task")
        added = unpack_fields(Added, row["added"], "history of a task")
        return cls(**{**row, "harm": harm, "added": added})


ROW_DEFAULTS: Final[Mapping[str, Any]] = {
    "error": 0.0, "lossless": False, "numbers": 0, "own_bytes": 0, "carried_bytes": 0,
    "modules": 0, "tensors": 0, "harm": None, "added": None, "config": {},
}  # fmt: skip
"""Default values of columns that are omitted."""


def row_of_task(task: TaskEntry, config: Mapping[str, Any], own: int, carried: int) -> TaskRow:
    """Build the row of a task.

    own, carried: bytes of its stream, and of its blobs.
    """
    return TaskRow(
        task.name,
        task.error,
        task.lossless,
        task.numbers,
        own,
        carried,
        len(task.modules),
        len(task.tensors),
        task.harm,
        task.added,
        {key: config[key] for key in _SETTINGS if key in config and _is_kept(config[key])},
    )


def _is_kept(setting: Any) -> bool:
    return type(setting) is bool or (isinstance(setting, str) and len(setting) <= _LONGEST)
