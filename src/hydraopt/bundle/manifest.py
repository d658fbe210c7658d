"""Manifest of a bundle and rows of its tasks, as frozen dataclasses that validate themselves.

docs/reference/format.md is the normative text. Everything a reader later multiplies, indexes or
allocates by is checked here; Python integers do not overflow, so the checks are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, get_args

from hydraopt.adapters import DTYPE_BYTES, ExtraKind, Format, check_name
from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.encoding import (
    FORMAT,
    amount,
    as_tuple,
    bad,
    check,
    natural,
    one_of,
    pack_fields,
    rising,
    text,
    text_map,
    unique,
    unpack_fields,
)
from hydraopt.bundle.entries import (
    MAX_ITEMS,
    Added,
    CarriedBlob,
    CarriedItem,
    Harm,
    KeptRanks,
    ModuleEntry,
)
from hydraopt.bundle.tensors import TensorEntry
from hydraopt.codec import MOST_DRAWN, KnownStart
from hydraopt.errors import UsageError

MAX_MODULES: Final = 10**6
MAX_TASKS: Final = 10**6


@dataclass(frozen=True)
class TaskEntry:
    """One task (adapter).

    content: index of its coded stream; None where nothing is coded (a lossless task, no modules).
    config: index into ``Manifest.configs``, the adapter's config as it was.
    format, base_model: as the reader of the original found them.  numbers: in the original file.
    dtype: dominant float dtype of the original low-rank tensors.
    lossless: all original tensors are carried, nothing is coded.
    modules: rising indices of the modules that the task has.
    errors: relative Frobenius error of each of them; snapped to the grid of 16 steps an octave.
    error: relative error over all modules, sqrt(sum |dW - dW~|^2 / sum |dW|^2); four digits kept.
    carried: rising indices of the blobs that hold its other tensors.
    keys: (module path, side) to the original PEFT key, where it is not :func:`default_key`.
    bias_scales: carried key to the original scale, for ``lora_bias`` tensors, which an export that
        folds the scale into B has to multiply.
    extra_kinds: carried key to what it is; see hydraopt.adapters.model.ExtraKind.
    notes: what the user should know.  metadata: of the original safetensors file, if to be kept.
    tensors, tensor_errors: the same as modules and errors, of coded tensors; an error is relative
        to the tensor, or to its difference from what means no change or from the base's own.
    harm: what the coded task does to its answers, as measured; None where nobody looked.
        Both are snapped; see :mod:`hydraopt.bundle.entries`.
    added: where the task came from, if it was added after the merge.
    ranks: of its config, if an export keeps them.
    start: generator of the initial A of its modules, if it is known.
    """

    name: str
    config: int
    content: int | None = None
    format: Format = "peft"
    base_model: str | None = None
    numbers: int = 0
    dtype: str = "F32"
    lossless: bool = False
    modules: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    error: float = 0.0
    carried: tuple[int, ...] = ()
    keys: Mapping[tuple[str, str], str] = field(default_factory=dict)
    bias_scales: Mapping[str, float] = field(default_factory=dict)
    extra_kinds: Mapping[str, ExtraKind] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[int, ...] = ()
    tensor_errors: tuple[float, ...] = ()
    harm: Harm | None = None
    added: Added | None = None
    ranks: KeptRanks | None = None
    start: KnownStart | None = None

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        try:
            check_name(self.name if isinstance(self.name, str) else "")
        except UsageError as error:
            bad(f"task name: {error}", self.name)
        natural(self.config, f"config of {where}", 0, MAX_TASKS - 1)
        natural(self.numbers, f"numbers of {where}", 0, 1 << 50)
        one_of(self.format, get_args(Format), f"format of {where}")
        one_of(self.dtype, [x for x in DTYPE_BYTES if "F" in x], f"dtype of {where}")
        check(type(self.lossless) is bool, f"lossless of {where}", self.lossless, "true or false")
        if self.base_model is not None:
            text(self.base_model, f"base model of {where}")
        if self.content is not None:
            natural(self.content, f"content of {where}", 0, MAX_TASKS - 1)
        coded = bool(self.modules or self.tensors) and not self.lossless
        check(coded == (self.content is not None), f"content of {where}", self.content)
        check(not (self.lossless and self.tensors), f"tensors of {where}", self.tensors, "none")
        check(not (self.lossless and self.ranks), f"ranks of {where}", self.ranks, "none")
        check(self.start is None or coded, f"start of {where}", self.start, "none")
        rising(self.modules, f"modules of {where}")
        rising(self.tensors, f"tensors of {where}")
        rising(self.carried, f"carried blobs of {where}")
        strictjson.amount(self.error, f"error of {where}")
        # Snapped here, so that a manifest equals itself once written and read.
        for name, of in (("errors", self.modules), ("tensor_errors", self.tensors)):
            own = strictjson.snapped(getattr(self, name), f"{name} of {where}")
            check(len(own) == len(of), f"{name} of {where}", len(own))
            object.__setattr__(self, name, own)
        object.__setattr__(self, "error", float(f"{self.error:.4g}"))
        object.__setattr__(self, "harm", self.harm and self.harm.snapped())
        if self.start is not None:
            natural(self.start.seed, f"seed of the start of {where}", 0, (1 << 32) - 1)
            natural(self.start.numbers, f"numbers of the start of {where}", 1, MOST_DRAWN)
        text_map(self.bias_scales, f"bias scales of {where}", (int, float))
        text_map(self.extra_kinds, f"kinds of extras of {where}", str)
        for kind in self.extra_kinds.values():
            one_of(kind, get_args(ExtraKind), f"kind of an extra of {where}")
        for scale in self.bias_scales.values():
            size = scale if type(scale) is bool else abs(scale)  # true is no number
            strictjson.amount(size, f"bias scales of {where}")
        check(all(isinstance(x, str) for x in self.notes), f"notes of {where}", self.notes, "texts")
        text_map(self.metadata, f"metadata of {where}", str)

    def alone(self) -> TaskEntry:
        """Return the entry for a file of this task alone: stream, config and blobs count from 0."""
        return replace(
            self,
            content=None if self.content is None else 0,
            config=0,
            carried=tuple(range(len(self.carried))),
        )


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but the coded bytes.

    recipe: how the bundle was made; any JSON object.  base_model: what all tasks belong to.
    """

    modules: tuple[ModuleEntry, ...]
    tasks: tuple[TaskEntry, ...]
    blobs: tuple[CarriedBlob, ...] = ()
    configs: tuple[Mapping[str, Any], ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    tensors: tuple[TensorEntry, ...] = ()

    def __post_init__(self) -> None:
        check(len(self.modules) <= MAX_MODULES, "too many modules", len(self.modules), MAX_MODULES)
        check(len(self.tasks) <= MAX_TASKS, "too many tasks", len(self.tasks), MAX_TASKS)
        check(len(self.tensors) <= MAX_ITEMS, "too many tensors", len(self.tensors), MAX_ITEMS)
        unique([x.path for x in self.modules], "module paths")
        check(len(set(self.tensors)) == len(self.tensors), "a coded tensor is listed twice")
        unique([x.name for x in self.tasks], "task names")
        for config in (*self.configs, self.recipe):
            check(isinstance(config, Mapping), "a config or the recipe", config, "an object")
        if self.base_model is not None:
            text(self.base_model, "base model")
        users: dict[int, TaskEntry] = {}
        for task in self.tasks:
            self._check_task(task)
            if task.content is not None:
                first = users.setdefault(task.content, task)
                same = all(
                    getattr(first, x) == getattr(task, x) for x in ("modules", "tensors", "start")
                )
                check(same, f"{task.name!r} and {first.name!r} share a stream, not what it holds")
        contents = sorted(users)
        numbered = contents == list(range(len(contents)))
        check(numbered, "streams are not numbered from 0", contents)

    def _check_task(self, task: TaskEntry) -> None:
        where = f"task {task.name!r}"
        for what, indices, count in (
            ("module", task.modules[-1:], len(self.modules)),
            ("tensor", task.tensors[-1:], len(self.tensors)),
            ("blob", task.carried[-1:], len(self.blobs)),
            ("config", (task.config,), len(self.configs)),
        ):
            fine = all(index < count for index in indices)
            check(fine, f"{where} names a {what} that is not there", indices, f"below {count}")
        carried = [item.key for i in task.carried for item in self.blobs[i].items]
        carried += [self.tensors[i].key for i in task.tensors]
        unique(carried, f"keys of the tensors of {where}")
        if task.keys or (task.ranks and task.ranks.exceptions):
            paths = {self.modules[i].path for i in task.modules}
            known = task.ranks is None or paths >= set(task.ranks.exceptions)
            check(known, f"ranks of {where} name a module it does not have")
            fine = all(path in paths and half in ("A", "B") for path, half in task.keys)
            check(fine, f"keys of {where} name a module it does not have")
            for key in task.keys.values():
                text(key, f"key of {where}")
        for what, keys in (("bias scales", task.bias_scales), ("kinds", task.extra_kinds)):
            check(not keys or set(keys) <= set(carried), f"{what} of {where} name no tensor of its")

    @property
    def streams(self) -> int:
        """Number of coded task streams."""
        return len({x.content for x in self.tasks if x.content is not None})

    def metadata(self, version: int) -> dict[str, str]:
        """Return the metadata of the bundle's header that follow from the manifest."""
        about = {"format": FORMAT, "format_version": str(version)}
        if self.base_model is not None:
            about["base_model"] = self.base_model
        about["tasks"] = strictjson.dumps([task.name for task in self.tasks])
        return about

    def check_canonical(self) -> None:
        """Raise BundleFormatError unless tasks are sorted and everything is numbered by first use.

        Then equal content has one manifest, and nothing in the file is without an owner.
        """
        names = [task.name for task in self.tasks]
        check(names == sorted(names), "tasks are not sorted by name")
        texts = [strictjson.dumps(config) for config in self.configs]
        unique(texts, "configs")
        for what, used, count in (
            ("configs", [x.config for x in self.tasks], len(self.configs)),
            ("streams", [x.content for x in self.tasks if x.content is not None], self.streams),
            ("blobs", [i for x in self.tasks for i in x.carried], len(self.blobs)),
        ):
            order = list(dict.fromkeys(used))
            check(order == list(range(count)), f"{what} are not numbered by first use", order)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; :meth:`from_json` is the inverse."""
        index = {module.path: i for i, module in enumerate(self.modules)}
        tasks = []
        for task in self.tasks:
            row = {x.name: getattr(task, x.name) for x in fields(task)}
            row["modules"] = strictjson.pack_ranges(task.modules, len(self.modules))
            row["errors"] = strictjson.pack_errors(task.errors)
            # [] rather than "all" for the usual task without coded tensors.
            row["tensors"] = task.tensors and strictjson.pack_ranges(
                task.tensors, len(self.tensors)
            )
            row["tensor_errors"] = strictjson.pack_errors(task.tensor_errors)
            row |= {x: strictjson.pack_fields(row[x]) for x in ("harm", "added", "start")}
            row["ranks"] = None if task.ranks is None else task.ranks.to_json(index)
            keys = sorted(task.keys.items())
            row["keys"] = [[index[path], half, key] for (path, half), key in keys]
            tasks.append(row)
        first = self.configs[0] if self.configs else {}
        later = [strictjson.config_difference(first, config) for config in self.configs[1:]]
        blobs = [_rows(blob.items, "key", _ITEM_DEFAULTS) for blob in self.blobs]
        whole = {
            "modules": _rows(self.modules, "path", _MODULE_DEFAULTS),
            "tasks": strictjson.pack_columns(tasks, "name", _TASK_DEFAULTS),
            "tensors": _rows(self.tensors, "key", _TENSOR_DEFAULTS) if self.tensors else {},
            "blobs": blobs,
            "configs": [first, *later] if self.configs else [],
            "recipe": self.recipe,
            "base_model": self.base_model,
        }
        return {key: value for key, value in whole.items() if value not in ([], {}, None)}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Convert parsed JSON to a manifest; raise BundleFormatError, also for unknown keys."""
        strictjson.check_keys(value, [x.name for x in fields(cls)])
        table = value.get("modules")
        rows = strictjson.unpack_columns(table, "path", _MODULE_DEFAULTS, "modules", MAX_MODULES)
        modules = tuple(ModuleEntry(**{**x, "a_tail": as_tuple(x["a_tail"])}) for x in rows)
        rows = []
        if "tensors" in value:
            rows = strictjson.unpack_columns(
                value["tensors"], "key", _TENSOR_DEFAULTS, "tensors", MAX_ITEMS
            )
        tensors = tuple(TensorEntry(**{**x, "shape": as_tuple(x["shape"])}) for x in rows)
        configs: list[Mapping[str, Any]] = []
        for config in as_tuple(value.get("configs", [])):
            whole = strictjson.config_from_difference(configs[0], config) if configs else config
            check(isinstance(whole, dict), "config", config, "an object")
            configs.append(strictjson.in_order(whole))
        base, recipe = value.get("base_model"), value.get("recipe", {})
        own = _tasks_of(value, modules, tensors), _blobs_of(value)
        return cls(modules, *own, tuple(configs), recipe, base, tensors)

    @classmethod
    def of_task(cls, value: Any, core: Manifest, config: Mapping[str, Any]) -> Manifest:
        """Return the manifest of a task file's tasks and blobs, with the tables of its core.

        Raises as :meth:`from_json`.
        """
        tasks = _tasks_of(value, core.modules, core.tensors)
        return replace(core, tasks=tasks, blobs=_blobs_of(value), configs=(config,))


# What a column of the manifest holds when it is left out.
_MODULE_DEFAULTS: Final[Mapping[str, Any]] = {
    "kind": "linear", "m": None, "n": None, "layout": "plain", "group": 0, "groups": 1,
    "a_tail": [],
}  # fmt: skip
_ITEM_DEFAULTS: Final[Mapping[str, Any]] = {"dtype": "F32", "shape": [], "of": None}
_TENSOR_DEFAULTS: Final[Mapping[str, Any]] = {
    "dtype": "F32", "shape": None, "kind": "saved", "base": None,
}  # fmt: skip
_TASK_DEFAULTS: Final[Mapping[str, Any]] = {
    "config": 0, "content": None, "format": "peft", "base_model": None, "numbers": 0,
    "dtype": "F32", "lossless": False, "modules": "all", "errors": "", "error": 0.0,
    "carried": [], "keys": [], "bias_scales": {}, "extra_kinds": {}, "notes": [], "metadata": {},
    "tensors": [], "tensor_errors": "", "harm": None,
    "added": None, "ranks": None, "start": None,
}  # fmt: skip


def _blobs_of(value: Mapping[str, Any]) -> tuple[CarriedBlob, ...]:
    blobs = []
    for blob in as_tuple(value.get("blobs", [])):
        rows = strictjson.unpack_columns(blob, "key", _ITEM_DEFAULTS, "carried items", MAX_ITEMS)
        items = (CarriedItem(**{**x, "shape": as_tuple(x["shape"])}) for x in rows)
        blobs.append(CarriedBlob(tuple(items)))
    return tuple(blobs)


def _tasks_of(
    value: Mapping[str, Any], modules: tuple[ModuleEntry, ...], tensors: tuple[TensorEntry, ...]
) -> tuple[TaskEntry, ...]:
    table = value.get("tasks")
    rows = strictjson.unpack_columns(table, "name", _TASK_DEFAULTS, "tasks", MAX_TASKS)
    return tuple(TaskEntry(**_task_row(row, modules, tensors)) for row in rows)


def _rows(items: tuple[Any, ...], lead: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{x.name: getattr(item, x.name) for x in fields(item)} for item in items]
    return strictjson.pack_columns(rows, lead, defaults)


def _task_row(
    row: dict[str, Any], modules: tuple[ModuleEntry, ...], tensors: tuple[TensorEntry, ...]
) -> dict[str, Any]:
    keys = {}
    for entry in as_tuple(row["keys"]):
        right = isinstance(entry, list) and [type(x) for x in entry] == [int, str, str]
        check(right and 0 <= entry[0] < len(modules), "key", entry, "[module, side, key]")
        keys[modules[entry[0]].path, entry[1]] = entry[2]
    return {
        **row,
        "modules": strictjson.unpack_ranges(row["modules"], len(modules)),
        "errors": strictjson.unpack_errors(row["errors"]),
        "tensors": strictjson.unpack_ranges(row["tensors"], len(tensors)),
        "tensor_errors": strictjson.unpack_errors(row["tensor_errors"]),
        "carried": as_tuple(row["carried"]),
        "notes": as_tuple(row["notes"]),
        "keys": keys,
        "harm": strictjson.unpack_fields(Harm, row["harm"], "harm of a task"),
        "added": strictjson.unpack_fields(Added, row["added"], "history of a task"),
        "ranks": KeptRanks.from_json(row["ranks"], modules),
        "start": strictjson.unpack_fields(KnownStart, row["start"], "start of a task"),
    }


_SETTINGS: Final = ("peft_type", "task_type", "use_dora")
_LONGEST: Final = 64
"""Maximum characters of a setting that is kept."""
_MOST: Final = 1 << 50


@dataclass(frozen=True)
class TaskRow:
    """Row of one task of a collection.

    error, lossless, numbers, harm, added: as for :class:`hydraopt.bundle.manifest.TaskEntry`.
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
