"""Additions to a module's output: one task for all rows, or one task for each row of a batch.

Tasks with equal numbers of rows in a mixed batch go through the module together: their own factors
are stacked, and a few batched products serve all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hydraopt.errors import UsageError, explain
from hydraopt.serve.heads import ModuleHead, ReplacedModule, Site, given, nbytes_of


class Adder(Protocol):
    """Adds the tasks' change to a module's output."""

    @property
    def nbytes(self) -> int:
        """Bytes it holds besides the heads themselves."""

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the output (..., m) with dW x added, in the output's type; x (..., n)."""


class SingleAdder:
    """One task for all rows.

    A basis has more vectors than the task has components, so a token costs less once it is
    multiplied out, which costs about as much as k tokens through the basis: that is done when so
    many have come. A task that is left again after fewer never pays for it.
    """

    def __init__(self, head: ModuleHead) -> None:
        self._head = head
        self._over_bases = head.y is not None or head.z is not None
        self._tokens = 0
        self.nbytes = 0

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        # Checkpointing computes twice what a backward pass needs, and both have to be alike.
        if self._over_bases and not torch.is_grad_enabled():
            self._count(x)
        change = self._head(_typed(x, self._head.site))
        return _added(output, change.to(output.dtype))

    def _count(self, x: Tensor) -> None:
        self._tokens += x.shape[:-1].numel()
        if self._tokens > self._head.count:
            before, self._head = self._head, self._head.multiplied_out()
            self._over_bases = False
            own = (before.a, before.b)
            new = (x for x in (self._head.a, self._head.b) if all(x is not y for y in own))
            self.nbytes = nbytes_of(*new)


@dataclass(frozen=True)
class _Stack:
    """T heads of one site that have ``rows`` rows each, padded with zeros to the longest, K.

    y (T, K, q), a (T, K, n); z (T, K, p), b (T, K, m). What no head of the site has is None.
    """

    rows: int
    heads: tuple[ModuleHead, ...]
    y: Tensor | None
    a: Tensor | None
    z: Tensor | None
    b: Tensor | None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.y, self.a, self.z, self.b)

    def __call__(self, x: Tensor, projected: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the change at the outputs (R, S, m), and at the left basis (R, S, p).

        x (R, S, n) and its V^T x, seen (R, S, q), in the order of the heads.
        """

        def by_head(rows: Tensor) -> Tensor:
            return rows.reshape(len(self.heads), -1, rows.shape[-1])

        h = None if self.a is None else torch.bmm(by_head(x), self.a.mT)
        if self.y is not None:
            assert projected is not None
            own = torch.bmm(by_head(projected), self.y.mT)
            h = own if h is None else h + own
        assert h is not None
        change = None if self.b is None else torch.bmm(h, self.b).reshape(*x.shape[:-1], -1)
        inner = None if self.z is None else torch.bmm(h, self.z).reshape(*x.shape[:-1], -1)
        return change, inner


class _Shared:
    """All heads of one site in a batch; their shared part is computed once, for all rows."""

    def __init__(self, site: Site, rows: Mapping[ModuleHead, int]) -> None:
        """Stack the heads. rows: number of rows of each head."""
        self.site = site
        groups: dict[int, list[ModuleHead]] = {}
        for head, count in rows.items():
            groups.setdefault(count, []).append(head)

        def stacked(
            of: Callable[[ModuleHead], Tensor | None], heads: Sequence[ModuleHead]
        ) -> Tensor | None:
            """Stack the heads' tensors (k, length) to (T, K, length); None if the site has none."""
            some = next((x for x in map(of, rows) if x is not None), None)
            if some is None:
                return None
            whole = some.new_zeros(len(heads), max(x.count for x in heads), some.shape[1])
            for own, x in zip(whole, map(of, heads), strict=True):
                if x is not None:
                    own[: len(x)].copy_(x)
            return whole

        self.stacks = [
            _Stack(
                count,
                tuple(heads),
                stacked(lambda head: head.y, heads),
                stacked(lambda head: head.a, heads),
                stacked(lambda head: None if head.z is None else head.z.T, heads),
                stacked(lambda head: None if head.b is None else head.b.T, heads),
            )
            for count, heads in groups.items()
        ]
        self.heads = [head for stack in self.stacks for head in stack.heads]

    @property
    def nbytes(self) -> int:
        return sum(stack.nbytes for stack in self.stacks)

    def __call__(self, x: Tensor) -> Tensor:
        """Return dW_t x of all rows, in the order of ``heads``: x (R, S, n) -> (R, S, m).

        Heads that have equally many rows share one batched product, in which nothing is padded.
        """
        shares = [len(stack.heads) * stack.rows for stack in self.stacks]
        sizes = [len(x) // sum(shares) * share for share in shares]
        projected: Sequence[Tensor | None] = [None] * len(sizes)
        if self.stacks[0].y is not None:
            projected = torch.split(F.linear(x, given(self.site.right)), sizes)
        outputs = [
            stack(own, other)
            for stack, own, other in zip(self.stacks, torch.split(x, sizes), projected, strict=True)
        ]
        changes = [change for change, _ in outputs if change is not None]
        inner = [head for _, head in outputs if head is not None]
        if not inner:
            return _joined(changes)
        change = F.linear(_joined(inner), given(self.site.left))
        return change + _joined(changes) if changes else change


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


@dataclass(frozen=True)
class _Layout:
    """Order of the rows of a batch. None in place of an order that changes nothing.

    orders: for each site, its rows in the order of its heads.
    places (N,): position of each row when the rows of all sites, followed by ``idle`` rows of
        zeros, are concatenated.
    """

    orders: tuple[Tensor | None, ...]
    places: Tensor | None
    idle: int


class Mixed:
    """Head of its own for each row of the batch, or none.

    A batch of a multiple of the rows gives each head to as many rows in a row, which is the order
    in which transformers repeats a prompt for beams and for several answers.
    """

    def __init__(self, heads: Sequence[ModuleHead | None], name: str) -> None:
        self._heads, self._name = tuple(heads), name
        by_site: dict[Site, dict[ModuleHead, int]] = {}
        for head, rows in Counter(x for x in heads if x is not None).items():
            by_site.setdefault(head.site, {})[head] = rows
        self._sites = [_Shared(site, rows) for site, rows in by_site.items()]
        self._layouts: dict[int, _Layout] = {}

    @property
    def nbytes(self) -> int:
        return sum(shared.nbytes for shared in self._sites)

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        layout = self._layout(x)
        if not self._sites:
            return output
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        changes = [
            shared(_typed(_rows(rows, order), shared.site)).to(output.dtype)
            for shared, order in zip(self._sites, layout.orders, strict=True)
        ]
        if layout.idle:
            changes.append(changes[0].new_zeros(layout.idle, *changes[0].shape[1:]))
        return _added(output, _rows(_joined(changes), layout.places).reshape(output.shape))

    def _layout(self, x: Tensor) -> _Layout:
        times = _rows_each(x, len(self._heads), self._name)
        if times not in self._layouts:
            # Indices are kept for the backward pass, whatever mode the first batch came in.
            with torch.inference_mode(False):
                self._layouts[times] = self._laid_out(times, x.device)
        return self._layouts[times]

    def _laid_out(self, times: int, device: torch.device) -> _Layout:
        rows: dict[ModuleHead | None, list[int]] = {}
        each = (head for head in self._heads for _ in range(times))
        for row, head in enumerate(each):
            rows.setdefault(head, []).append(row)
        orders = [[row for head in shared.heads for row in rows[head]] for shared in self._sites]
        idle = rows.get(None, [])
        placed = [row for order in (*orders, idle) for row in order]
        same = list(range(len(placed)))

        def index(values: list[int]) -> Tensor | None:
            return None if values == same else torch.tensor(values, device=device)

        where = sorted(same, key=placed.__getitem__)
        return _Layout(tuple(index(order) for order in orders), index(where), len(idle))


class MixedReplaced:
    """Replacement of a module for each row of the batch.

    Rows without one use the model's module, plus what ``other`` adds.
    """

    def __init__(
        self, own: Sequence[ReplacedModule | None], name: str, other: Adder | None
    ) -> None:
        self._own, self._name, self._other = tuple(own), name, other
        self.nbytes = other.nbytes if other else 0

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        times = _rows_each(x, len(self._own), self._name)
        output = output.clone() if self._other is None else self._other(x, output)
        each = [own for own in self._own for _ in range(times)]
        for own in dict.fromkeys(own for own in self._own if own is not None):
            rows = torch.tensor([i for i, one in enumerate(each) if one is own], device=x.device)
            output = output.index_copy(0, rows, own(x.index_select(0, rows), output))
        return output


def _rows_each(x: Tensor, tasks: int, name: str) -> int:
    """Return the number of rows per task. Raises UsageError if the batch has another form."""
    count = x.shape[0] if x.dim() else 0
    tokens = x.dim() == 2 and not x.is_floating_point()  # an embedding's input, (rows, tokens)
    # Experts of a mixture see tokens of all rows in one list, as two dimensions.
    flat = x.dim() < 2 or "experts" in name.split(".")
    flat = flat or (x.dim() == 2 and count != tasks and not tokens)
    if flat or count == 0 or count % tasks:
        raise UsageError(
            explain(
                "the tasks of the rows do not fit the batch",
                module=name,
                got=f"{tasks} tasks and an input of shape {tuple(x.shape)}",
                expected="a first dimension of rows, as many as tasks or a multiple",
                do="Give set_tasks a task for each row, or set_task one for all",
            )
        )
    return count // tasks


def _added(output: Tensor, change: Tensor) -> Tensor:
    """Return the sum; in place where no gradient needs the output, which is the module's own."""
    if torch.is_grad_enabled() and (output.requires_grad or change.requires_grad):
        return output + change
    return output.add_(change)


def _rows(x: Tensor, at: Tensor | None) -> Tensor:
    return x if at is None else x.index_select(0, at)


def _typed(x: Tensor, site: Site) -> Tensor:
    """Return the input in the factors' type; raise UsageError if the model has moved since."""
    if x.device != site.place.device:
        raise UsageError(
            explain(
                "the model was moved after the bundle was attached",
                module=site.place.name,
                got=x.device,
                expected=site.place.device,
                do="Detach, move the model, and attach again",
            )
        )
    return x.to(site.place.dtype)
