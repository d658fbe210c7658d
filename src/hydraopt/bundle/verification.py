"""Verify a bundle: read every byte, and measure errors against the original adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from hydraopt.adapters import Adapter, RawTensor, products_of_adapter
from hydraopt.bundle.encoding import code_of
from hydraopt.bundle.entries import Harm, states_estimates
from hydraopt.bundle.peft.folder import check_peft
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import rounded_matrix
from hydraopt.codec import Factors, as_matrix, distance, product_norm, ratio
from hydraopt.errors import HydraoptError

# The task's error is stored with four digits; measuring again may differ in the order of sums.
_ERROR_TOLERANCE: Final = 2e-3
# Estimates assume that the errors of successive encodings are independent. They are wrong by a few
# percent, and by at most a factor of two where little was kept.
_ESTIMATE_TOLERANCE: Final = 0.5
_ESTIMATE_CODES: Final = 16  # of the grid, 4.4 % each
# Square root of the rounding of float64; smaller errors count as zero.
_NOISE: Final = 1e-6
# The grid's finest step above zero, which stands for everything below it.
_FINEST: Final = 2.0 ** (-254 / 16)


@dataclass(frozen=True)
class TaskReport:
    """Result for one task.

    error: error measured against the original, or the manifest's if there was none.
    worst: module with the largest error, and that error.
    exact: number of tensors compared bit by bit.
    worst_tensor: coded tensor with the largest error, and that error.
    """

    name: str
    error: float
    measured: bool
    worst: tuple[str, float] | None
    exact: int
    worst_tensor: tuple[str, float] | None


@dataclass
class VerifyReport:
    """Result of verification; a sound bundle has no problems.

    bytes: size of the file.
    estimated: True if the manifest's errors are estimates, as after shrink, and need only be near.
    problems: one sentence each.
    """

    path: str
    bytes: int = 0
    estimated: bool = False
    tasks: list[TaskReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class TaskHarm:
    """Stated and measured harm of one task.

    stated: from the manifest; None if it was not measured.
    measured: measured now; its ``held_out`` has no meaning, because earlier uses of the prompts are
        unknown.
    most: largest likely share that agrees with the stated one, 0 to 1; None without a stated one.
    """

    name: str
    stated: Harm | None
    measured: Harm
    most: float | None

    @property
    def ok(self) -> bool:
        """Return whether the likely changes are within the bound that the stated harm implies."""
        return self.most is None or self.measured.likely <= self.most

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        measured = asdict(self.measured)
        del measured["held_out"]
        stated = None if self.stated is None else asdict(self.stated)
        harm = {"name": self.name, "stated": stated, "measured": measured}
        return {**harm, "most": self.most, "ok": self.ok}


@dataclass(frozen=True)
class HarmReport:
    """Result of measuring the harm of a bundle again.

    tasks: measured tasks by name.
    problems: one sentence each.
    learned: tasks measured on prompts from which a refit may have learned, if they are the merge's.
    cut: by task, number of answers longer than the judged part, and whether ``answer_tokens`` cut
        one, as of :meth:`hydraopt.model.judge.AnswerJudge.cut`.
    answer_tokens: maximum number of tokens judged per answer, from the bundle's recipe.
    """

    tasks: tuple[TaskHarm, ...]
    problems: tuple[str, ...]
    learned: tuple[str, ...]
    cut: Mapping[str, tuple[int, bool]]
    answer_tokens: int


def verify(bundle: Bundle, adapters: Sequence[Adapter] | None = None) -> VerifyReport:
    """Read every byte of an open bundle; see :func:`hydraopt.verify_bundle`.

    Raises HydraoptError only where the files of a folder cannot be opened.
    """
    report = VerifyReport(str(bundle.path))
    # The tensors of every file: a tensor that is in two files is read from one with its task.
    tensors = [(file, name) for file in bundle.files for name in file.sizes]
    report.bytes, report.estimated = bundle.size, states_estimates(bundle.recipe)
    for file, name in tensors:
        try:
            file.read(name)
        except HydraoptError as error:
            report.problems.append(str(error))
    if report.problems:
        # The checks of each task would repeat these problems.
        return report
    originals = None if adapters is None else {x.name: x for x in adapters}
    if originals is not None:
        for name in sorted(set(originals) ^ set(bundle)):
            where = "the bundle" if name in originals else "the originals"
            report.problems.append(f"task {name!r} is missing in {where}")
    read: dict[object, str | None] = {}
    for task in bundle.one_by_one():
        original = originals.get(task.name) if originals is not None else None
        held = _held(task)
        if original is None and held not in read:
            read[held] = _trouble(task)
        if original is None and (trouble := read[held]) is not None:
            report.problems.append(f"task {task.name!r}: {trouble}")
            continue
        try:
            check_peft(task)
            report.tasks.append(_verify_task(task, original, report.problems))
        except HydraoptError as error:
            report.problems.append(f"task {task.name!r}: {error}")
    report.tasks.sort(key=lambda x: x.name)
    return report


def distance_from(task: TaskAdapter, original: Adapter) -> float:
    """Return the relative error (Frobenius) of a task against any adapter.

    The largest of the error of all modules together and those of the coded tensors. Infinite if the
    adapter has other modules, tensors or shapes. For a lossless task 0 if all bytes are equal,
    else 1.
    """
    if task.entry.lossless:
        problems: list[str] = []
        _compare_bytes(task.name, task.tensors, original.tensors, problems)
        return float(bool(problems))
    factors = task.factors()
    own = {path: (x.B.shape[0], x.A.shape[1]) for path, x in factors.items()}
    tensors = _measure_tensors(task, original, [])[0]
    if own != {path: (x.m, x.n) for path, x in original.modules.items()}:
        return math.inf
    if tensors.keys() != task.tensor_errors.keys():
        return math.inf
    modules = _measure(task, factors, original, [])
    return max(modules.of_changes(original, tensors) or 0.0, *tensors.values(), 0.0)


def _held(task: TaskAdapter) -> object:
    """Return a key for a task's stored bytes, so that equal tasks are read only once."""
    return task.entry.content, task.entry.carried


def read_stored(task: TaskAdapter) -> None:
    """Decode everything that a task stores; raise HydraoptError for what is damaged."""
    if not task.entry.lossless:
        task.factors()
    for tensor in task.carried.values():
        tensor.raw()
    if not any(task.manifest.tensors[i].base for i in task.entry.tensors):
        for tensor in task.coded_tensors().values():
            tensor.raw()


def _trouble(task: TaskAdapter) -> str | None:
    """Read all bytes of a task and return a description of the first problem, or None."""
    try:
        read_stored(task)
    except HydraoptError as error:
        return str(error)
    return None


def _verify_task(task: TaskAdapter, original: Adapter | None, problems: list[str]) -> TaskReport:
    name = task.name
    if original is None:
        worst, dense = _worst(task.module_errors), _worst(task.tensor_errors)
        return TaskReport(name, task.error, False, worst, 0, dense)
    # Tensors of a method are stored without loss, but they are not those of the original.
    if task.entry.lossless and "method" not in task.bundle.recipe:
        exact = _compare_bytes(name, task.tensors, original.tensors, problems)
        return TaskReport(name, 0.0, True, None, exact, None)
    factors = task.factors()
    coded = task.tensor_errors
    held = {key: x for key, x in original.extras.items() if key not in coded}
    kept = task.extras if task.entry.lossless else task.carried
    exact = _compare_bytes(name, kept, held, problems)
    modules = _measure(task, factors, original, problems)
    tensors, whole = _measure_tensors(task, original, problems)
    error = modules.of_changes(original, tensors)
    if error is None:
        if len(tensors) < len(coded):  # the others have another error
            return TaskReport(name, task.error, False, None, exact, _worst(tensors))
        error = whole
    tolerance = _ESTIMATE_TOLERANCE if states_estimates(task.bundle.recipe) else _ERROR_TOLERANCE
    if abs(error - task.error) > max(tolerance * max(error, task.error), _NOISE):
        problems.append(
            f"task {task.name!r} has error {error:.4g}, the manifest says {task.error:.4g}"
        )
    return TaskReport(name, error, True, _worst(modules.errors), exact, _worst(tensors))


def _worst(errors: Mapping[str, float]) -> tuple[str, float] | None:
    return max(errors.items(), key=lambda x: x[1], default=None)


def _measure_tensors(
    task: TaskAdapter, original: Adapter, problems: list[str]
) -> tuple[dict[str, float], float]:
    """Return relative errors of the coded tensors by key, and the error of all of them together."""
    stated, errors = task.tensor_errors, {}
    wrong = whole = 0.0
    for entry, decoded, reference in task.dense_matrices():
        key = entry.key
        true = original.extras.get(key)
        if true is None or true.shape != entry.shape:
            problems.append(f"task {task.name!r}: tensor {key!r} is missing in the original")
            continue
        values = as_matrix(true.float64().reshape(true.shape))
        if not np.isfinite(values).all():
            what = f"tensor {key} of the original holds NaN or infinity"
            problems.append(f"task {task.name!r}: {what}; it is not measured")
            continue
        off = float(np.linalg.norm(values - rounded_matrix(entry, decoded)))
        size = float(np.linalg.norm(values - reference))
        errors[key] = ratio(off, size)
        wrong, whole = wrong + off**2, whole + size**2
        problems += _not_as_stated(task, f"tensor {key}", errors[key], stated[key])
    return errors, ratio(math.sqrt(wrong), math.sqrt(whole))


def _not_as_stated(task: TaskAdapter, what: str, error: float, stated: float) -> list[str]:
    # The next code is accepted too, because the error may be on the border of two codes.
    most = _ESTIMATE_CODES if states_estimates(task.bundle.recipe) else 1
    if abs(code_of(max(error, _FINEST)) - code_of(max(stated, _FINEST))) <= most:
        return []
    return [f"task {task.name!r}: {what} has error {error:.4g}, the manifest says {stated:.4g}"]


@dataclass(frozen=True)
class _Modules:
    """Measurements of the modules, by path: relative errors, and the norms of the original."""

    errors: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)

    def of_changes(self, original: Adapter, tensors: Mapping[str, float]) -> float | None:
        """Return the relative error of dW; None if there is none.

        The error of a factor counts as that of its product.

        tensors: relative errors of the coded tensors, by key.
        """
        coded = {**self.errors, **tensors}
        wrong, whole, inside = 0.0, 0.0, set[str]()
        for product in products_of_adapter(original, self.norms):
            items = [item for item in product.items if item in coded]
            inside |= set(items)
            whole += product.energy if items else 0.0
            wrong += product.energy * sum(coded[item] ** 2 for item in items)
        for path in self.norms.keys() - inside:
            whole += self.norms[path] ** 2
            wrong += (self.errors[path] * self.norms[path]) ** 2
        return ratio(math.sqrt(wrong), math.sqrt(whole)) if self.norms or inside else None


def _measure(
    task: TaskAdapter, factors: Mapping[str, Factors], original: Adapter, problems: list[str]
) -> _Modules:
    for path in sorted(set(original.modules) ^ set(factors)):
        where = "the bundle" if path in original.modules else "the original"
        problems.append(f"task {task.name!r}: module {path} is missing in {where}")
    stated, made = task.module_errors, _Modules()
    for path, decoded in factors.items():
        module = original.modules.get(path)
        if module is None:
            continue
        true = Factors.of(*module.factors())
        if (true.B.shape[0], true.A.shape[1]) != (decoded.B.shape[0], decoded.A.shape[1]):
            problems.append(f"task {task.name!r}: module {path} has another shape")
            continue
        off, norm = distance(true, decoded), product_norm(true.B, true.A)
        made.errors[path], made.norms[path] = ratio(off, norm), norm
        problems += _not_as_stated(task, f"module {path}", made.errors[path], stated[path])
    return made


def _compare_bytes(
    name: str,
    carried: Mapping[str, RawTensor],
    true: Mapping[str, RawTensor],
    problems: list[str],
) -> int:
    """Return the number of tensors that are the same, bit by bit; report the others as problems."""
    for key in sorted(set(carried) ^ set(true)):
        where = "the bundle" if key in true else "the original"
        problems.append(f"task {name!r}: tensor {key!r} is missing in {where}")
    exact = 0
    for key in sorted(set(carried) & set(true)):
        a, b = carried[key], true[key]
        if (a.dtype, a.shape) == (b.dtype, b.shape) and a.raw() == b.raw():
            exact += 1
        else:
            problems.append(f"task {name!r}: tensor {key!r} is not what it was")
    return exact
