"""Read an adapter at a path, or adapters of one base at many paths, all problems in one error."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from hydraopt.adapters.bases import check_same_base
from hydraopt.adapters.formats import Opened, read_opened
from hydraopt.adapters.model import Adapter, check_name
from hydraopt.adapters.sources import (
    Request,
    Source,
    expand,
    load_config,
    locate,
    name_apart,
)
from hydraopt.adapters.tensorfile import open_tensors
from hydraopt.adapters.tensors import refuse
from hydraopt.errors import (
    AdapterFormatError,
    BaseMismatchError,
    BatchError,
    HydraoptError,
    NotThereError,
    NumericalError,
    UsageError,
    explain,
)
from hydraopt.files import Url
from hydraopt.notes import Note, counted, listed, one_line

_SKIPPED: Final = (AdapterFormatError, NotThereError, NumericalError)
"""Errors that say that an adapter itself cannot be used."""


class Problems:
    """Errors of a batch of ``count`` adapters, collected while the others are read.

    skip: leave out adapters that cannot be read instead of failing.
    """

    def __init__(self, count: int, skip: bool = False) -> None:
        self._count, self._skip = count, skip
        self._errors: list[HydraoptError] = []
        self._skipped: list[HydraoptError] = []

    def add(self, error: HydraoptError | OSError, place: object = None) -> None:
        """Add an error. place: the adapter that it is about."""
        if not isinstance(error, HydraoptError):
            error = AdapterFormatError(
                explain(
                    "file cannot be read",
                    file=error.filename or place,
                    got=error.strerror or error,
                    do="Check the path and its permissions",
                )
            )
        if error.file is None:
            error.file = place
        skipped = self._skip and isinstance(error, _SKIPPED)
        (self._skipped if skipped else self._errors).append(error)

    def raise_any(self) -> None:
        """Raise the only error, or a BatchError that lists all of them."""
        if not self._errors:
            if len(self._skipped) == self._count:
                raise self._all("no adapter is left")
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        raise self._all("not all adapters can be read")

    def _all(self, what: str) -> BatchError:
        errors = [*self._errors, *self._skipped]
        adapters = counted(self._count, "adapter")
        lines = [f"{what}: {counted(len(errors), 'problem')} in {adapters}"]
        lines += [f"  {one_line(str(error))}" for error in errors]
        if not self._skip and any(isinstance(error, _SKIPPED) for error in errors):
            lines.append("  --skip-unreadable (skip_unreadable=True) leaves out what is unreadable")
        error = BatchError("\n".join(lines))
        error.problems = tuple(errors)
        return error

    def notes(self) -> Iterator[Note]:
        """Yield notes that list the skipped files by reason."""
        for alike in _by_reason(self._skipped):
            reason = alike[0].what or str(alike[0]).partition(" [")[0]
            places = ", ".join(str(error.file) for error in alike)
            text = f"left out {counted(len(alike), 'adapter')}, {reason}: {places}"
            yield Note("unreadable", text, places)


def _by_reason(errors: Iterable[HydraoptError]) -> Iterator[Sequence[HydraoptError]]:
    groups: dict[object, list[HydraoptError]] = {}
    for error in errors:
        key = (error.what, error.do) if error.what else str(error)
        groups.setdefault(key, []).append(error)
    return iter(groups.values())


_LONGEST: Final = 4096
_MOST_LISTED: Final = 8
"""Maximum number of names in a note."""
_AT_ONCE: Final = 8
"""Number of adapters that are fetched at the same time."""


class Adapters(list[Adapter]):
    """Adapters read together.  notes: of the whole reading, such as files that were left out."""

    notes: tuple[Note, ...] = ()


def read_adapter(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    base_model: str | None = None,
    alpha: float | None = None,
) -> Adapter:
    """Open one adapter: a folder, or a weight file with its adapter_config.json beside it.

    Formats are told apart by tensor names: PEFT, kohya, diffusers (and cloneofsimo), loralib, MLX.
    Headers are read and checked whole; tensors stay in the file until asked for.

    name: task name; default the folder's name, or the file's stem if it has an unusual one.
    base_model: overrides what the config says.
    alpha: lora_alpha where the file states none (loralib, old image files); default r, scale 1.

    Raises AdapterFormatError for everything that is not a whole, understood LoRA, with file,
    module and remedy; UsageError for an unusable name, and for an alpha of 0 or that is no number.
    """
    _check_alpha(alpha)
    source = locate(path)
    chosen = check_name(name) if name is not None else source.names[0]
    return _read(source, chosen, base_model, alpha)


def read_adapters(
    paths_or_globs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    same_base: bool = False,
    base_model: str | None = None,
    alpha: float | None = None,
    skip_unreadable: bool = False,
) -> Adapters:
    """Open adapters that are to be merged, sorted by task name.

    paths_or_globs: paths, glob patterns ("zoo/*"), and strings "NAME=PATH". Equal folder names are
        told apart by their parents: "run1-checkpoint", "run2-checkpoint". A file beside them that
        is no weight file, as a shell's "zoo/*" brings along, is left out with a note.
    same_base: the caller vouches that all were trained on one base, whatever their configs say.
    base_model, alpha: as in :func:`read_adapter`, for all.
    skip_unreadable: leave out adapters that cannot be read or hold NaN or infinity, and list them
        in the notes. All tensors are read for this.

    Raises BaseMismatchError for different or partly unknown bases and for modules of one path and
    different shapes, UsageError for names that are unusable or occur twice, AdapterFormatError as
    :func:`read_adapter`, and BatchError, which lists all problems, if there are several.
    """
    _check_alpha(alpha)
    requests, notes = expand(paths_or_globs)
    if not requests:
        raise UsageError(explain("no adapters were given", do="Give at least one path"))
    problems = Problems(len(requests), skip_unreadable)
    named = _named(requests, problems)
    adapters, paths = Adapters(), {}
    for request, source, name in named:
        with _problems_of(request, problems):
            adapter = _read(source, name, base_model, alpha)
            if skip_unreadable:
                adapter.check_finite()
            adapters.append(adapter)
            paths[name] = str(request.path) if name == source.names[0] else f"{name}={request.path}"
    renamed = _renamed([(source.names[0], name) for x, source, name in named if x.name is None])
    adapters.notes = (*notes, *problems.notes(), *renamed)
    adapters.sort(key=lambda adapter: adapter.name)
    try:
        check_same_base(adapters, same_base)
    except BaseMismatchError as error:
        error.paths = paths
        problems.add(error)
    problems.raise_any()
    return adapters


@contextmanager
def _problems_of(request: Request, problems: Problems) -> Iterator[None]:
    """Collect what goes wrong with one adapter. What goes wrong with the process is raised."""
    try:
        yield
    except MemoryError:
        raise
    except (HydraoptError, OSError) as error:
        problems.add(error, request.path)


def _named(requests: Sequence[Request], problems: Problems) -> list[tuple[Request, Source, str]]:
    """Return the files and the task name of each adapter that has files."""
    there: list[tuple[Request, Source]] = []
    for request, located in zip(requests, _located(requests), strict=True):
        with _problems_of(request, problems):
            there.append((request, located()))
    unnamed = [source.names for request, source in there if request.name is None]
    made = iter(name_apart(unnamed))
    named = []
    for request, source in there:
        with _problems_of(request, problems):
            name = request.name
            if name is None:
                name = check_name(next(made), request.path)
            named.append((request, source, name))
    counts = Counter(name for _, _, name in named)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        problems.add(
            UsageError(
                explain("task names occur twice", got=", ".join(twice), do="Name them: NAME=PATH")
            )
        )
    return named


def _renamed(tasks: Sequence[tuple[str, str]]) -> Iterator[Note]:
    """Yield the notes about adapters of one name.

    tasks: the name of each adapter, and the name of its task.
    """
    alike: dict[str, list[str]] = {}
    for name, task in tasks:
        alike.setdefault(name, []).append(task)
    for name, made in alike.items():
        if len(made) == 1:
            continue
        tasks_made = listed(made, _MOST_LISTED)
        text = (
            f"{len(made)} adapters are called {name!r}: their tasks are {tasks_made}; NAME=PATH "
            "gives one another name"
        )
        yield Note("same_name", text, ", ".join(made))


def _located(requests: Sequence[Request]) -> list[Callable[[], Source]]:
    """Return functions, in order, that return the files of each request or raise its error.

    Files at addresses are fetched several at a time.
    """
    paths = [request.path for request in requests]
    if not any(isinstance(path, Url) for path in paths):
        return [partial(locate, path) for path in paths]
    # Loads logging, which reading one task has no use for.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [pool.submit(locate, path).result for path in paths]


def _check_alpha(alpha: float | None) -> None:
    """Raise UsageError for an invalid alpha, also for 0, which means none in a file only."""
    if alpha is not None and not (math.isfinite(alpha) and alpha != 0):
        raise UsageError(explain("alpha is no number that scales", got=alpha, expected="8, say"))


def _read(source: Source, name: str, base_model: str | None, alpha: float | None) -> Adapter:
    if source.origin is None:
        return _read_files(source, name, base_model, alpha)
    try:
        return _read_files(source, name, base_model, alpha)
    except AdapterFormatError as error:
        # The copy goes with the process; what is wrong with it is wrong at the address.
        folder = str(source.weights.parent)
        message = str(error).replace(folder, str(source.origin).rstrip("/"))
        raise AdapterFormatError(message) from error


def _read_files(source: Source, name: str, base_model: str | None, alpha: float | None) -> Adapter:
    file = open_tensors(source.weights)
    # First: no grammar of names takes a line break, so a reader would tell of something else.
    _check_texts(source, file)
    config = load_config(source.config)
    parsed = read_opened(Opened(file, config, source.config, alpha))
    base = base_model or parsed.base_model
    _check_texts(source, [*(module.path for module in parsed.modules), base or "-"])
    for module in parsed.modules:
        inner = module.path.rpartition("::")[0] if module.layout == "factor" else module.path
        if "::" in inner and module.layout in ("plain", "transposed", "factor"):
            do = "Rename the module: '::' marks the groups of one stored pair"
            refuse("a module's name holds '::'", source.weights, module=module.path, do=do)
        for tensor in (module.a, module.b, module.between):
            if tensor is not None and not tensor.is_float:
                refuse(
                    "a low-rank factor is not of floating point numbers",
                    source.weights,
                    module=module.path,
                    got=f"{tensor.name!r} of {tensor.dtype}",
                    do="Save the adapter again in float32 or bfloat16, not quantised",
                )
    for key, kind in parsed.extras.items():
        if kind in ("lora_bias", "dora_magnitude") and not file[key].is_float:
            refuse(
                "a bias or magnitude is not of floating point numbers",
                source.weights,
                got=f"{key!r} of {file[key].dtype}",
                do="Save the adapter again in float32 or bfloat16, not quantised",
            )
    modules = {module.path: module for module in sorted(parsed.modules, key=lambda x: x.path)}
    if len(modules) != len(parsed.modules):
        paths = Counter(module.path for module in parsed.modules)
        twice = next(path for path, count in paths.items() if count > 1)
        refuse("module occurs twice", source.weights, module=twice, do="Save the adapter again")
    return Adapter(
        name=name,
        source=source.weights,
        format=parsed.format,
        base_model=base,
        config=parsed.config,
        modules=modules,
        extras={key: file[key] for key in parsed.extras},
        tensors=file,
        extra_kinds={key: parsed.extras[key] for key in file if key in parsed.extras},
        notes=(*source.notes, *parsed.notes),
        peft_keys=parsed.keys,
    )


def _check_texts(source: Source, texts: Iterable[str]) -> None:
    """Refuse names that a bundle cannot hold, or that would hide something in a terminal."""
    for text in texts:
        if len(text) > _LONGEST or not text.isprintable():
            refuse(
                "a tensor, a module or the base model has an unusable name",
                source.weights,
                got=f"{text[:60]!r} of {len(text)} characters",
                expected=f"printable characters, at most {_LONGEST}",
                do="Rename it in the file or in adapter_config.json",
            )
