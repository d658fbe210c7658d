"""What a module adds to its output: one task for all rows, or each row of a batch its own.

In a mixed batch, rows whose tasks share the module's right basis V go through it together: V^T x is
computed once, and what is the tasks' own follows as products batched over rows. The other rows are
grouped by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hydraopt.errors import UsageError, explain
from hydraopt.runtime.heads import Part, Site, nbytes_of

__all__ = ["Adder", "Alone", "Mixed"]


class Adder(Protocol):
    """Adds the tasks' change to a module's output."""

    @property
    def nbytes(self) -> int:
        """Bytes it holds besides the parts themselves."""

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """The output (..., m) with dW x added, in the output's type; x (..., n)."""


class Alone:
    """One task for all rows."""

    nbytes = 0

    def __init__(self, part: Part) -> None:
        self._part = part

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        change = self._part(_typed(x, self._part.site))
        return output + change.to(output.dtype)


@dataclass(frozen=True)
class _Stack:
    """Parts over one right basis, stacked and padded with zeros to the longest, K.

    y (T, q, K), a (T, n, K); z (T, K, p), b (T, K, m). What no part has is None.
    """

    parts: tuple[Part, ...]
    y: Tensor
    a: Tensor | None
    z: Tensor | None
    b: Tensor | None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.y, self.a, self.z, self.b)

    def __call__(self, x: Tensor, which: Tensor | None) -> Tensor:
        """dW_t x of each row: x (N, S, n) -> (N, S, m).

        which: (N,), the part of each row; None if row i has part i.
        """

        def own(stacked: Tensor) -> Tensor:
            return stacked if which is None else stacked.index_select(0, which)

        site = self.parts[0].site
        assert site.right is not None
        h = torch.bmm(F.linear(x, site.right), own(self.y))
        if self.a is not None:
            h = h + torch.bmm(x, own(self.a))
        change = None
        if self.z is not None:
            assert site.left is not None
            change = F.linear(torch.bmm(h, own(self.z)), site.left)
        if self.b is not None:
            apart = torch.bmm(h, own(self.b))
            change = apart if change is None else change + apart
        assert change is not None
        return change


def _stack(parts: Sequence[Part]) -> _Stack:
    most = max(part.count for part in parts)

    def stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
        """(T, length, K) of tensors (length, k)."""
        some = next((x for x in tensors if x is not None), None)
        if some is None:
            return None
        whole = some.new_zeros(len(tensors), some.shape[0], most)
        for i, x in enumerate(tensors):
            if x is not None:
                whole[i, :, : x.shape[1]] = x
        return whole

    def upright(tensors: Sequence[Tensor | None]) -> Tensor | None:
        whole = stacked(tensors)
        return None if whole is None else whole.transpose(1, 2).contiguous()

    y = stacked([None if part.y is None else part.y.T for part in parts])
    assert y is not None
    a = stacked([None if part.a is None else part.a.T for part in parts])
    z, b = upright([part.z for part in parts]), upright([part.b for part in parts])
    return _Stack(tuple(parts), y, a, z, b)


@dataclass(frozen=True)
class _Layout:
    """Which rows of a batch each product takes; rows None: all of them, in order."""

    grouped: tuple[tuple[Part, Tensor | None], ...]
    batched: tuple[tuple[_Stack, Tensor | None, Tensor | None], ...]


class Mixed:
    """Each row of the batch its own part, or none.

    A batch of a multiple of the rows gives each part to as many rows in a row, which is the order
    in which transformers repeats a prompt for beams and for several answers.
    """

    def __init__(self, parts: Sequence[Part | None], name: str) -> None:
        self._parts, self._name = tuple(parts), name
        distinct = dict.fromkeys(x for x in parts if x is not None)
        by_site: dict[Site, list[Part]] = {}
        for part in distinct:
            if part.y is not None:
                by_site.setdefault(part.site, []).append(part)
        self._stacks = [_stack(x) for x in by_site.values() if len(x) > 1]
        stacked = {part for stack in self._stacks for part in stack.parts}
        self._groups = [part for part in distinct if part not in stacked]
        self._layouts: dict[int, _Layout] = {}

    @property
    def nbytes(self) -> int:
        return sum(stack.nbytes for stack in self._stacks)

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        layout = self._layout(x)
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        whole = output.reshape(x.shape[0], -1, output.shape[-1])
        change = torch.zeros_like(whole)
        for part, at in layout.grouped:
            _add(change, at, part(_typed(_rows(rows, at), part.site)))
        for stack, at, which in layout.batched:
            own = _typed(_rows(rows, at), stack.parts[0].site)
            _add(change, at, stack(own, which))
        return output + change.reshape(output.shape)

    def _layout(self, x: Tensor) -> _Layout:
        count, given = x.shape[0], len(self._parts)
        # Experts of a mixture see tokens of all rows in one list, as two dimensions.
        flat = (
            x.dim() < 2 or "experts" in self._name.split(".") or (x.dim() == 2 and count != given)
        )
        if flat or count == 0 or count % given:
            raise UsageError(
                explain(
                    "the tasks of the rows do not fit the batch",
                    module=self._name,
                    got=f"{given} tasks and an input of shape {tuple(x.shape)}",
                    expected="a first dimension of rows, as many as tasks or a multiple",
                    do="Give set_tasks a task for each row, or set_task one for all",
                )
            )
        times = count // given
        if times not in self._layouts:
            # Indices are kept for the backward pass, whatever mode the first batch came in.
            with torch.inference_mode(False):
                self._layouts[times] = self._laid_out(times, x.device)
        return self._layouts[times]

    def _laid_out(self, times: int, device: torch.device) -> _Layout:
        each = [part for part in self._parts for _ in range(times)]

        def index(numbers: list[int]) -> Tensor | None:
            """None where the numbers are all rows in order, which is their own index."""
            if numbers == list(range(len(each))):
                return None
            return torch.tensor(numbers, device=device)

        grouped = [(p, index([i for i, x in enumerate(each) if x is p])) for p in self._groups]
        batched = []
        for stack in self._stacks:
            number = {part: i for i, part in enumerate(stack.parts)}
            rows = [i for i, x in enumerate(each) if x is not None and x in number]
            which = [number[x] for x in each if x is not None and x in number]
            # Each part has a row, and they stand in the order of their first rows: where there are
            # as many parts as rows, row i has part i, and no copy is needed.
            same = len(which) == len(stack.parts)
            numbers = None if same else torch.tensor(which, device=device)
            batched.append((stack, index(rows), numbers))
        return _Layout(tuple(grouped), tuple(batched))


def _rows(x: Tensor, at: Tensor | None) -> Tensor:
    return x if at is None else x.index_select(0, at)


def _add(change: Tensor, at: Tensor | None, own: Tensor) -> None:
    own = own.to(change.dtype)
    if at is None:
        change += own
    else:
        change.index_add_(0, at, own)


def _typed(x: Tensor, site: Site) -> Tensor:
    """The input in the type of the factors. Raises UsageError if the model has moved since."""
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
