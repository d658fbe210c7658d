"""Methods over whole adapters: adapters in, adapters or a bundle out.

What comes out can be merged or stored like what was read. Tensors that tasks share hold the same
bytes, so a lossless bundle stores A' once, and each head once for the tasks that use it; a task's
own scale is in its config (``alpha_pattern``), never in B.

The bundle is lossless in what the method made: its tensors in fp16 (or fp32), those that tasks
share once, each task's scales in its config, and the errors against the original adapters in the
manifest. So ``inspect``, ``verify``, ``export``, ``eval`` and ``attach`` read it as any other.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.adapters import (
    Adapter,
    LowRankModule,
    RawTensor,
    TensorFile,
    changed_base,
    check_same_base,
    other_tuner,
    parse,
    ranks_and_alphas,
    resolved_config,
    written_config,
)
from hydraopt.bundle import Manifest, check_output, core_name, written
from hydraopt.codec import Array, Factors, relative_error
from hydraopt.errors import AdapterFormatError, NumericalError, UsageError, explain
from hydraopt.files import StrPath, check_apart, place_of, to_json
from hydraopt.merging.alignment import align
from hydraopt.merging.hydra import Merged, check_counts, hydra
from hydraopt.merging.job import Job, Written, inputs_of, load
from hydraopt.merging.limits import method_recipe
from hydraopt.notes import Note, closest, listed, real, shown


@dataclass(frozen=True)
class Method:
    """A way to merge the adapters of one module.

    name: as results record it.
    run: a pure function of the module's factors and keyword options. ``weights`` among them are one
        for each task; ``inner_scales`` are the scales inside the B's.
    weighs_errors: whether weights say how much a task's error counts, not its share of a sum.
    """

    name: str
    run: Callable[..., Merged]
    weighs_errors: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Options and their default values, from the function itself."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for options that the method does not have; their values are its own."""
        defaults = self.defaults
        unknown = sorted(set(options) - set(defaults))
        if unknown:
            raise UsageError(
                explain(
                    f"{self.name} has no such option",
                    got=", ".join(unknown),
                    expected=", ".join(defaults) or "none",
                )
            )


METHODS: Final[Mapping[str, Method]] = {"hydraopt": Method("hydraopt", hydra, weighs_errors=True)}
"""The methods of this package by name."""


def method_named(method: str | Method) -> Method:
    """Return the method of that name, or the one that is given.

    Another package may register a method as an entry point. Raises UsageError for a name that
    nobody has, PluginError for an entry point that is broken.
    """
    if isinstance(method, Method):
        return method
    from hydraopt.codec import METHOD_GROUP, find_registered

    return find_registered("method", method, METHODS, METHOD_GROUP, Method)


_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}


def apply(
    adapters: Sequence[Adapter],
    method: str | Method,
    *,
    dtype: str = "float16",
    weights: Mapping[str, float] | None = None,
    same_base: bool = False,
    **options: Any,
) -> list[Adapter]:
    """Merge the adapters by ``method``; names and order stay the same.

    method, options: a Method or the name of one, and options of its function.
    weights: by name. For methods that weigh errors, how much an adapter's relative error counts, 1
        where it is not named; for other methods the weights of their sums, one for every adapter,
        or none for the method's own.
    dtype: dtype of the factors, "float16" or "float32".
    same_base: treat base models with different names as one.

    Each module is merged over the adapters that have it; modules that an adapter lacks are not
    added to it.

    Memory: the results, and one module of all adapters. Raises UsageError for unknown methods and
        options, AdapterFormatError for adapters that hold more than plain low-rank products
        (extras, groups in one pair, changed bases), AlignmentError and BaseMismatchError where
        adapters do not fit together, NumericalError where a number does not fit the dtype.
    """
    row = method_named(method)
    _check(adapters, row, dtype, options)
    check_same_base(adapters, same_base)
    given = _weights(adapters, row, weights or {})
    made: list[dict[str, tuple[LowRankModule, float]]] = [{} for _ in adapters]
    for path in sorted({path for adapter in adapters for path in adapter.modules}):
        owners = [i for i, adapter in enumerate(adapters) if path in adapter.modules]
        factors = [Factors.of(*adapters[i].modules[path].factors()) for i in owners]
        own = dict(options)
        if given is not None:
            own["weights"] = [given[i] for i in owners]
        if "inner_scales" in row.defaults and "inner_scales" not in own:
            own["inner_scales"] = [adapters[i].modules[path].scale for i in owners]
        merged = _merged(row, path, factors, own)
        stored = _Stored(_DTYPES[dtype], path)
        for t, i in enumerate(owners):
            made[i][path] = stored.module(adapters[i], merged, t)
    return [
        _adapter(adapter, modules, Note("method", f"made by {row.name}"))
        for adapter, modules in zip(adapters, made, strict=True)
    ]


def _merged(
    row: Method, path: str, factors: Sequence[Factors], options: Mapping[str, Any]
) -> Merged:
    """Run the method on one module; raises NumericalError unless the result is finite."""
    try:
        # What leaves the range is an error in words, not a warning of numpy's.
        with np.errstate(over="ignore", invalid="ignore"):
            merged = row.run(factors, **options)
    except np.linalg.LinAlgError:
        merged = None
    if merged is None or not merged.finite:
        raise NumericalError(
            explain(
                "merging leaves the range of float64",
                module=path,
                got=", ".join(f"{name} {shown(x)}" for name, x in options.items()) or None,
                expected="finite numbers at every step",
                do="Choose weights and options nearer to 1, or scale the adapters",
            )
        )
    return merged


def _check(
    adapters: Sequence[Adapter], row: Method, dtype: str, options: Mapping[str, Any]
) -> None:
    if not adapters:
        raise UsageError(explain("nothing to merge", got="no adapters", do="Give at least one"))
    names = [adapter.name for adapter in adapters]
    if len(set(names)) != len(names):
        raise UsageError(explain("two adapters have one name", got=names, do="Rename one"))
    if dtype not in _DTYPES:
        raise UsageError(explain("unknown dtype", got=dtype, expected=", ".join(_DTYPES)))
    row.check(options)
    for adapter in adapters:
        tuner = other_tuner(adapter.config)
        if tuner is not None:
            raise _refused(adapter, f"it is of the tuner {tuner}", None)
        if adapter.extras:
            raise _refused(
                adapter, "it holds tensors that are no low-rank products", sorted(adapter.extras)[0]
            )
        if changed_base(adapter.config) is not None:
            raise _refused(adapter, "its initialisation changes the base model", None)
        if adapter.config.get("target_parameters"):
            raise _refused(adapter, "it wraps parameters, not modules", None)
        for path, module in adapter.modules.items():
            if module.layout in ("rows", "experts", "factor"):
                raise _refused(adapter, "a stored pair holds several modules", path)


def _refused(adapter: Adapter, why: str, what: str | None) -> AdapterFormatError:
    return AdapterFormatError(
        explain(
            f"the adapter cannot be put together with others: {why}",
            adapter=adapter.name,
            got=what,
            expected="plain low-rank products",
            do="hydraopt.merge carries everything; leave this adapter out here",
        )
    )


def _weights(
    adapters: Sequence[Adapter], row: Method, weights: Mapping[str, float]
) -> list[float] | None:
    """Return one weight for each adapter, or None for the method's own."""
    names = [adapter.name for adapter in adapters]
    given = {name: _checked(name, x, row.weighs_errors) for name, x in weights.items()}
    if row.weighs_errors:
        if unknown := sorted(set(given) - set(names)):
            got, expected = listed(unknown), closest(unknown, names)
            what = "weight for an adapter that was not found"
            raise UsageError(explain(what, got=got, expected=expected))
        # 1 / |dW_t|^2 over the whole of each adapter, so that relative errors count alike.
        squares = [
            sum(Factors.of(*module.factors()).squared_norm() for module in x.modules.values())
            for x in adapters
        ]
        inverse = [1 / square if square > 0 else 1.0 for square in squares]
        weighed: list[float] = (relative_importance(given, names) * inverse).tolist()
        return weighed
    if not given:
        return None
    if "weights" not in row.defaults:
        raise UsageError(explain(f"{row.name} takes no weights", do="Leave them out"))
    if set(given) != set(names):
        raise UsageError(
            explain("weights do not name the adapters", got=sorted(given), expected=names)
        )
    return [given[name] for name in names]


def relative_importance(importance: Mapping[str, float], names: Iterable[str]) -> Array:
    """Return the importance of each task over the largest one, (tasks,); 1 if not given."""
    counts = np.array([importance.get(name, 1.0) for name in names], np.float64)
    relative: Array = counts / counts.max()
    return relative


def _checked(name: str, weight: object, positive: bool) -> float:
    """Return the weight of the adapter of that name; raises UsageError for what is none."""
    number = real(weight)
    if number is None or not math.isfinite(number) or (positive and number <= 0):
        raise UsageError(
            explain(
                "a weight is out of range",
                adapter=name,
                got=shown(weight),
                expected=f"a finite number{', above 0' if positive else ''}",
                do="Weights near 1 are usual; to give an adapter none, leave it out",
            )
        )
    return number


class _Stored:
    """Tensors of one module; arrays that tasks share are rounded and held once."""

    def __init__(self, dtype: np.dtype[Any], path: str) -> None:
        self._dtype = dtype
        self._path = path
        # The arrays are kept beside their copies, so that no other one can get their id meanwhile.
        self._held: dict[int, tuple[Array, RawTensor]] = {}

    def _tensor(self, key: str, array: Array, shape: tuple[int, ...]) -> RawTensor:
        if id(array) not in self._held:
            with np.errstate(over="ignore"):
                values = array.astype(self._dtype)
            if not np.isfinite(values).all():
                largest = float(np.abs(array).max())
                fits = largest <= float(np.finfo(np.float32).max)
                raise NumericalError(
                    explain(
                        "a number of the result does not fit the dtype",
                        module=self._path,
                        got=f"{largest:.3g}",
                        do='Choose dtype="float32"' if fits else "Choose options nearer to 1",
                    )
                )
            self._held[id(array)] = array, RawTensor.from_numpy(key, values.reshape(shape))
        held = self._held[id(array)][1]
        return RawTensor(key, held.dtype, held.shape, held.source, held.read)

    def module(self, adapter: Adapter, merged: Merged, t: int) -> tuple[LowRankModule, float]:
        """Return task t's module, and its alpha."""
        old = adapter.modules[self._path]
        factors = merged.factors[t]
        r = factors.A.shape[0]
        tail = tuple(old.a_shape[2:]) if old.kind == "conv" else ()
        a_shape = (r, old.a_shape[1], *tail) if tail else (r, old.n)
        b_shape = (old.m, r, *(1 for _ in tail))
        a = self._tensor(adapter.peft_key(self._path, "A"), factors.A, a_shape)
        b = self._tensor(adapter.peft_key(self._path, "B"), factors.B, b_shape)
        # Six digits: alphas stand in the config of each task, as text.
        alpha = float(f"{merged.scales[t] * r:.6g}")
        module = LowRankModule(self._path, old.kind, old.m, old.n, r, alpha / r, a, b)
        return module, alpha


def _adapter(
    adapter: Adapter, modules: Mapping[str, tuple[LowRankModule, float]], note: Note
) -> Adapter:
    tensors: dict[str, RawTensor] = {}
    keys = {}
    for path, (module, _) in modules.items():
        keys[path, "A"], keys[path, "B"] = module.a.name, module.b.name
        tensors[module.a.name], tensors[module.b.name] = module.a, module.b
    return Adapter(
        name=adapter.name,
        source=Path("memory"),
        format="peft",
        base_model=adapter.base_model,
        config=_config(adapter, modules),
        modules={path: module for path, (module, _) in modules.items()},
        extras={},
        tensors=TensorFile(Path("memory"), tensors, {"format": "pt"}),
        notes=(note,),
        peft_keys=keys,
    )


def _config(adapter: Adapter, modules: Mapping[str, tuple[LowRankModule, float]]) -> dict[str, Any]:
    """Return the adapter_config.json by which PEFT gives each module its rank and alpha."""
    wanted: dict[str, tuple[int, float]] = {}
    for path, (module, alpha) in modules.items():
        key = parse(module.a.name)
        place = key.settings_path if key else path
        if wanted.setdefault(place, (module.r, alpha)) != (module.r, alpha):
            raise _refused(adapter, "two pairs of one module came out unlike", place)
    # The usual rank, so that patterns are few: they stand in the config of each task, as text.
    r = Counter(rank for rank, _ in wanted.values()).most_common(1)[0][0] if wanted else 1
    config = written_config(resolved_config(adapter.config, wanted), wanted, adapter.base_model)
    return {**config, **to_json(ranks_and_alphas(wanted, r))}


@dataclass(frozen=True, kw_only=True)
class Combined(Written):
    """Result of a merging method.

    errors: errors of the numbers as stored.
    method, options: the method that ran, and its options.
    objective: sum_t w_t |dW_t - dW~_t|^2 / sum_t w_t |dW_t|^2 with w_t the task's importance
        (default 1) over |dW_t|^2. HydraOpt minimises it; it is also reported for methods that
        minimise something else.
    """

    method: str
    options: Mapping[str, Any]
    objective: float


def combine(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    method: str | Method = "hydraopt",
    *,
    weights: Mapping[str, float] | None = None,
    dtype: str = "float16",
    same_base: bool = False,
    alpha: float | None = None,
    **options: Any,
) -> Combined:
    """Run a method and write what it makes as one bundle.

    adapters, same_base, alpha: as in :func:`hydraopt.merge`. method: a name, or a Method. weights:
    by task; for HydraOpt how much a task's relative error counts, 1 where it is not named; for
    other methods the weights of their sums, one for every task. dtype: "float16" or "float32".
    options: those of the method; for HydraOpt the number of ``heads`` and their ``rank``
    (:func:`hydraopt.merging.hydra.hydra`).

    Raises a HydraoptError for anything wrong with the input, before ``output`` is touched.
    """
    started = time.monotonic()
    row = method_named(method)
    group = load(adapters, same_base, alpha)
    loaded = group.adapters
    check_apart(output, inputs_of(loaded))
    check_output(output)
    if options.get("heads") is not None:
        check_counts(options["heads"], options.get("rank") or 1, len(loaded))
    options = {name: x.item() if isinstance(x, np.generic) else x for name, x in options.items()}
    made = apply(loaded, row, dtype=dtype, weights=weights, same_base=same_base, **options)
    errors, by_module = _errors(loaded, made)
    pieces = align(made, group.base_model, lossless=True)
    numbers = {adapter.name: adapter.numbers for adapter in loaded}
    job = Job.of(pieces, method_recipe(row.name, options, dtype), core_name(output))
    manifest = _measured(job.manifest(None), errors, by_module, numbers)
    counts = relative_importance((weights or {}) if row.weighs_errors else {}, errors)
    squares = np.square(list(errors.values()))
    return Combined(
        path=place_of(output),
        size=written(job.packed(None, manifest), output),
        fp16_bytes=2 * sum(numbers.values()),
        errors=errors,
        seconds=time.monotonic() - started,
        notes=(*group.notes, *dict.fromkeys(note for adapter in made for note in adapter.notes)),
        method=row.name,
        options=options,
        objective=float(np.average(squares, weights=counts)),
    )


def _measured(
    manifest: Manifest,
    errors: Mapping[str, float],
    by_module: Mapping[str, Mapping[str, float]],
    numbers: Mapping[str, int],
) -> Manifest:
    """Return the manifest with errors against the originals, and the numbers that these hold."""
    tasks = []
    for task in manifest.tasks:
        mine = by_module[task.name]
        own = tuple(mine[manifest.modules[i].path] for i in task.modules)
        tasks.append(
            dataclasses.replace(
                task, error=errors[task.name], errors=own, numbers=numbers[task.name]
            )
        )
    return dataclasses.replace(manifest, tasks=tuple(tasks))


def _errors(
    originals: Sequence[Adapter], made: Sequence[Adapter]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Relative errors of each task and of each of its modules."""
    totals: dict[str, float] = {}
    modules: dict[str, dict[str, float]] = {}
    for old, new in zip(originals, made, strict=True):
        wrong = whole = 0.0
        mine = modules[old.name] = {}
        for path, module in old.modules.items():
            true, merged = (Factors.of(*x.factors()) for x in (module, new.modules[path]))
            mine[path] = relative_error(true, merged)
            size = true.squared_norm()
            # Where nothing was to be kept, what is there now is all error.
            wrong += mine[path] ** 2 * size if size else merged.squared_norm()
            whole += size
        totals[old.name] = math.sqrt(wrong / whole) if whole else float(wrong > 0)
    return totals, modules
