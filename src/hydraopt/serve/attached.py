"""``attach``: a bundle's tasks on a model, one for all rows of a batch or each row its own.

Some models turn their inputs around and have tokens in the first dimension (XLNet, torch's
transformer layers). There a batch of mixed tasks would give tasks to tokens instead of rows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydraopt.errors import TaskNotFoundError, UsageError, explain
from hydraopt.notes import closest
from hydraopt.serve.adders import Adder, Mixed, MixedReplaced, SingleAdder
from hydraopt.serve.bundles import Bundles, PlacedBundle, named_bundles
from hydraopt.serve.heads import Head, HeadCache, ModuleHead, ReplacedModule, head_bytes

# What transformers and diffusers call inputs whose first dimension is the rows.
_NAMES: Final = (
    "input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "pixel_values",
    "input_features", "input_values", "sample", "hidden_states",
)  # fmt: skip


class Batches:
    """Rows of the pass that goes through a model, by thread; none outside of one."""

    def __init__(self) -> None:
        self._own = threading.local()

    def watch(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Register the hooks and yield the handles that remove them."""

        def before(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._own.rows = _rows_of(args, kwargs)

        def after(*_: Any) -> None:
            self._own.rows = frozenset()

        yield model.register_forward_pre_hook(before, with_kwargs=True)
        yield model.register_forward_hook(after, always_call=True)

    def check(self, x: Tensor, name: str) -> None:
        """Raise UsageError if the first dimension of a module's input is not the model's rows.

        It may be a multiple: of windows of an image, or answers of a choice. Tokens are seen by the
        second one, which then is the rows.
        """
        rows: frozenset[int] = getattr(self._own, "rows", frozenset())
        if not rows or x.dim() < 2 or x.shape[0] in rows:
            return
        tokens = x.dim() == 2 and not x.is_floating_point()  # an embedding's input
        turned = (x.dim() > 2 or tokens) and x.shape[1] in rows
        if turned or all(x.shape[0] % count for count in rows if count):
            raise UsageError(
                explain(
                    "the rows of the batch are not the first dimension of a module's input",
                    module=name,
                    got=f"an input of shape {tuple(x.shape)}",
                    expected=f"{' or '.join(map(str, sorted(rows)))} rows first, as in the model's "
                    "inputs, or a multiple",
                    do="Give the model its tasks one after another, with set_task",
                )
            )


def _rows_of(args: Sequence[object], kwargs: Mapping[str, object]) -> frozenset[int]:
    """Return the first dimensions of the model's main inputs, or of its first tensor."""
    named = [x for x in map(kwargs.get, _NAMES) if _is_batch(x)]
    if args and _is_batch(args[0]):
        named.append(args[0])
    others = [x for x in (*args, *kwargs.values()) if _is_batch(x)]
    return frozenset(int(x.shape[0]) for x in named or others[:1])


def _is_batch(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() > 1


LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 4 << 20, 256 << 20


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors.

    shared: the bundles' bases.  cached: heads that were used lately, of at most ``limit``.
    active: what the selected tasks take besides: heads that the cache has dropped or never took,
    and the stacks of a mixed batch.
    """

    shared: int
    cached: int
    active: int
    limit: int


@dataclass(frozen=True)
class Stats:
    """Cost of switching between tasks.

    decodes: heads decoded so far.
    hits: heads found in the cache.
    switch_seconds: time of the last change of tasks, decoding included.
    bytes_read: bytes read from the bundles' files, opening included.
    """

    decodes: int
    hits: int
    switch_seconds: float
    bytes_read: int


@dataclass(frozen=True)
class _Chosen:
    """Tasks that were selected: by row or one for all, and what each module adds for them."""

    names: tuple[str | None, ...]
    adders: Mapping[str, Adder]
    heads: Mapping[Hashable, Head]

    @property
    def several(self) -> bool:
        """Return whether the rows belong to different tasks."""
        return any(name != self.names[0] for name in self.names)


_NONE = _Chosen((None,), {}, {})


def default_cache_bytes(adapters_bytes: int, core_bytes: int) -> int:
    """Return the bytes for heads not in use: with the core, a quarter of the adapters' bytes.

    At least 4 and at most 256 MiB. With this limit, attached tasks take less than a third of the
    same number of adapters, including the tasks in use; the core counts because it may be a seventh
    of forty small adapters. 4 MiB are small beside any base model, and a task that is not kept is
    loaded again in milliseconds.
    """
    return min(MOST_CACHE_BYTES, max(LEAST_CACHE_BYTES, adapters_bytes // 4 - core_bytes))


def attach(model: nn.Module, bundles: Bundles, *, cache_bytes: int | None = None) -> Attached:
    """Put the tasks of one bundle or several on ``model``; until one is selected nothing changes.

    bundles: a path or an opened bundle, a list of them, or a mapping that names them. The shared
    bases are decoded now, onto the device and in the type of each module; a task's head is
    decoded when it is first selected. cache_bytes: what these heads may take while not in use;
    None is :func:`default_cache_bytes` of all bundles.

    The model's weights are not touched: hooks on its linear modules add to their outputs. Modules
    are found by the bundle's paths, under a prefix if all of them are there.

    Raises AlignmentError if the model lacks a module or it has another shape, BundleFormatError
    for a damaged bundle, UsageError for two bundles of one name.
    """
    if cache_bytes is not None and cache_bytes < 0:
        raise UsageError(explain("cache_bytes makes no sense", got=cache_bytes, expected=">= 0"))
    opened = named_bundles(bundles)
    # Tensors of inference mode could not be used where gradients flow to the inputs later.
    with torch.inference_mode(False), torch.no_grad():
        placed = [PlacedBundle(model, bundle, label) for label, bundle in opened.items()]
    if cache_bytes is None:
        adapters, core = sum(x.adapters_bytes for x in placed), sum(x.nbytes for x in placed)
        cache_bytes = default_cache_bytes(adapters, core)
    return Attached(model, placed, cache_bytes)


class Attached:
    """Tasks on a model, made by :func:`attach`. For one thread at a time.

    A thread computes with what it selected itself, or, if it never did, with what was selected
    last. If another thread has selected other tasks since, modules raise UsageError: rows would
    get tasks that they did not ask for.

    tasks: names to select by: the task's own, or "bundle:task" where several bundles have it.
    ``with attach(...) as attached`` detaches at the end.
    """

    def __init__(self, model: nn.Module, bundles: Sequence[PlacedBundle], cache_bytes: int) -> None:
        self._model, self._bundles = model, tuple(bundles)
        self._cache = HeadCache(cache_bytes)
        self._chosen, self._enabled, self._detached = _NONE, True, False
        self._selecting, self._own = threading.RLock(), threading.local()
        self._decodes = self._hits = self._read_before = 0
        self._seconds = 0.0
        self._handles: dict[str, RemovableHandle] = {}
        self._batches = Batches()
        self._watching: list[RemovableHandle] = []
        counts = Counter(name for placed in bundles for name in placed.bundle)
        self._names: dict[str, tuple[PlacedBundle, str]] = {}
        for placed in bundles:
            for name in placed.bundle:
                self._names[f"{placed.label}:{name}"] = (placed, name)
                if counts[name] == 1:
                    self._names[name] = (placed, name)
        self.tasks = tuple(
            name if counts[name] == 1 else f"{placed.label}:{name}"
            for placed in bundles
            for name in placed.bundle
        )
        for placed in bundles:
            for site in placed.sites.values():
                self._hook(site.place.name)

    # --- selecting ----------------------------------------------------------------------------

    @property
    def active(self) -> tuple[str | None, ...]:
        """Selected task of all rows, or the tasks of :meth:`set_tasks`; None is the base."""
        return self._chosen.names

    def set_task(self, name: str | None) -> None:
        """Select one task for all rows; None for the base model.

        Raises TaskNotFoundError; UsageError for a task that is more than changes of linear
        modules and modules of its own, such as a head, or after :meth:`detach`. What was selected
        before then stays.
        """
        with self._switching() as heads:
            head = {} if name is None else self._head(name, heads)
            adders: dict[str, Adder] = {
                module: SingleAdder(own) if isinstance(own, ModuleHead) else own
                for module, own in head.items()
            }
            self._choose((name,), adders, heads)

    def set_tasks(self, names: Sequence[str | None]) -> None:
        """Select a task for each row of the batches to come; None for the base model.

        A batch must have as many rows, or a multiple: then each name counts for as many rows in
        a row, as ``generate`` repeats prompts for beams and ``num_return_sequences``. A module
        raises UsageError for a batch of another size, and where its first dimension is not that of
        the model's inputs. Errors as in :meth:`set_task`.
        """
        given, names = names, () if isinstance(names, str) else tuple(names)
        if not names:
            raise UsageError(
                explain("no list of tasks", got=repr(given), expected="a task or None for each row")
            )
        with self._switching() as heads:
            named = dict.fromkeys(x for x in names if x is not None)
            by_name = {name: self._head(name, heads) for name in named}
            adders: dict[str, Adder] = {}
            for module in dict.fromkeys(x for head in by_name.values() for x in head):
                own = [None if x is None else by_name[x].get(module) for x in names]
                adders[module] = _mixed(own, module)
            if not self._watching:
                self._watching.extend(self._batches.watch(self._model))
            self._choose(names, adders, heads)

    @contextmanager
    def task(self, name: str | Sequence[str | None] | None) -> Iterator[Attached]:
        """Select a task inside the block, or a list of tasks as in :meth:`set_tasks`."""
        before = self._chosen
        if name is None or isinstance(name, str):
            self.set_task(name)
        else:
            self.set_tasks(name)
        try:
            yield self
        finally:
            with self._selecting:
                if not self._detached:
                    self._chosen = self._own.chosen = before

    def disable(self) -> None:
        """Use the base model until :meth:`enable`; the selection is kept."""
        self._enabled = False

    def enable(self) -> None:
        """Undo :meth:`disable`."""
        self._enabled = True

    def detach(self) -> None:
        """Take all hooks off the model and free everything; the object is of no more use."""
        for handle in (*self._handles.values(), *self._watching):
            handle.remove()
        self._handles.clear()
        self._watching.clear()
        self._cache.clear()
        self._read_before += self._read()
        self._bundles, self._names = (), {}
        self._chosen, self._detached = _NONE, True

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "detached" if self._detached else f"active {list(self.active)}"
        return f"Attached({len(self.tasks)} tasks, {state})"

    # --- what it costs ------------------------------------------------------------------------

    def memory(self) -> Memory:
        """Return the number of bytes of tensors that are held now."""
        heads = self._chosen.heads
        loose = sum(head_bytes(head) for key, head in heads.items() if key not in self._cache)
        stacks = sum(adder.nbytes for adder in self._chosen.adders.values())
        shared = sum(placed.nbytes for placed in self._bundles)
        return Memory(shared, self._cache.nbytes, loose + stacks, self._cache.limit)

    @property
    def stats(self) -> Stats:
        """Counts since :func:`attach`."""
        return Stats(self._decodes, self._hits, self._seconds, self._read_before + self._read())

    # --- inside -------------------------------------------------------------------------------

    def _read(self) -> int:
        return sum(placed.bundle.bytes_read for placed in self._bundles)

    def _find(self, name: str) -> tuple[PlacedBundle, str]:
        self._check_attached()
        if name in self._names:
            return self._names[name]
        several = [x for x in self.tasks if x.endswith(f":{name}")]
        expected = ", ".join(several) or closest(str(name), self.tasks)
        what = "several bundles have this task" if several else "no such task"
        raise TaskNotFoundError(explain(what, got=repr(name), expected=expected))

    def _check_attached(self) -> None:
        if self._detached:
            raise UsageError(explain("the bundle was detached", do="Attach it again"))

    def _head(self, name: str, heads: dict[Hashable, Head]) -> Head:
        """Return the task's head, decoded if it is nowhere; put into ``heads`` under its key."""
        placed, own_name = self._find(name)
        task = placed.bundle[own_name]
        placed.check(task)
        key = placed.key(task)
        # What is selected now may have left the cache, or never have been in it.
        places = (self._cache.get(key), heads.get(key), self._chosen.heads.get(key))
        head = next((x for x in places if x is not None), None)
        if head is not None:
            self._hits += 1
        else:
            head = placed.head(task)
            self._decodes += 1
            self._cache.put(key, head)
        heads[key] = head
        return head

    @contextmanager
    def _switching(self) -> Iterator[dict[Hashable, Head]]:
        """Gather the heads of a new selection; inference mode is off, as in attach."""
        with self._selecting, torch.inference_mode(False), torch.no_grad():
            self._check_attached()
            started = time.perf_counter()
            yield {}
            self._seconds = time.perf_counter() - started

    def _choose(
        self,
        names: tuple[str | None, ...],
        adders: Mapping[str, Adder],
        heads: Mapping[Hashable, Head],
    ) -> None:
        for module in adders:
            self._hook(module)
        self._chosen = self._own.chosen = _Chosen(names, adders, heads)

    def _current(self) -> _Chosen:
        """Return the selection. Raises UsageError if this thread has selected something else."""
        chosen = self._chosen
        own = getattr(self._own, "chosen", chosen)
        if own is not chosen and own.names != chosen.names:
            raise UsageError(
                explain(
                    "another thread has selected other tasks since this one did",
                    got=_listed(chosen.names),
                    expected=_listed(own.names),
                    do="Hold a lock from the selection to the end of the pass, or give each "
                    "thread a model and an attachment of its own",
                )
            )
        return chosen

    def _hook(self, name: str) -> None:
        """Register a hook on the module of that name that applies the selection."""
        if name in self._handles:
            return

        def hook(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            chosen = self._current() if self._enabled else _NONE
            adder = chosen.adders.get(name)
            if adder is None:
                return None
            x = args[0] if args else next(iter(kwargs.values()))
            if chosen.several:
                self._batches.check(x, name)
            return adder(x, output)

        module = self._model.get_submodule(name)
        self._handles[name] = module.register_forward_hook(hook, with_kwargs=True)


def _mixed(own: Sequence[ModuleHead | ReplacedModule | None], module: str) -> Adder:
    """Return a module's adder for rows of several tasks, some of which may replace the module."""
    changes = [x if isinstance(x, ModuleHead) else None for x in own]
    mixed = Mixed(changes, module) if any(changes) else None
    replaced = [x if isinstance(x, ReplacedModule) else None for x in own]
    return MixedReplaced(replaced, module, mixed) if any(replaced) or mixed is None else mixed


def _listed(names: Sequence[str | None]) -> str:
    shown = ", ".join("the base" if x is None else repr(x) for x in names[:4])
    return shown + (", ..." if len(names) > 4 else "")
