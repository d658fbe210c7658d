"""What a module adds to its output: one task for all rows, or each row of a batch its own.

In a mixed batch, the rows of one bundle go through the module together: V^T x is computed once, and
the tasks' own factors stand side by side, so that a few products serve all tasks.
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


# Up to so many times as many products as needed, one product over all tasks at once takes less time
# than gathering each row's factors: the steps of generation, with a token or a few to a row.
_WASTE = 48


@dataclass(frozen=True)
class _Stack:
    """T parts of one site side by side, each padded with zeros to the longest, K.

    y (T K, q), a (T K, n); z (p, T K), b (m, T K). What no part has is None.
    """

    parts: tuple[Part, ...]
    most: int
    y: Tensor | None
    a: Tensor | None
    z: Tensor | None
    b: Tensor | None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.y, self.a, self.z, self.b)

    def __call__(self, x: Tensor, which: Tensor, others: Tensor) -> Tensor:
        """dW_t x of each row: x (N, S, n) -> (N, S, m).

        which: (N,) the part of each row.  others: (N, T), true for all parts but the row's own.
        """
        site = self.parts[0].site
        if len(self.parts) * x.shape[1] <= _WASTE:
            return self._at_once(x, site, others)
        return self._gathered(x, site, which)

    def _at_once(self, x: Tensor, site: Site, others: Tensor) -> Tensor:
        """All parts of every row, those of others taken as 0 in the middle."""
        h = None if self.a is None else F.linear(x, self.a)
        if self.y is not None:
            own = F.linear(F.linear(x, _given(site.right)), self.y)
            h = own if h is None else h + own
        assert h is not None
        each = h.reshape(*h.shape[:-1], len(self.parts), self.most)
        h = each.masked_fill(others[:, None, :, None], 0).flatten(-2)
        change = None if self.b is None else F.linear(h, self.b)
        if self.z is not None:
            own = F.linear(F.linear(h, self.z), _given(site.left))
            change = own if change is None else change + own
        assert change is not None
        return change

    def _gathered(self, x: Tensor, site: Site, which: Tensor) -> Tensor:
        """Each row with its own part alone, copied out of the stack."""
        sizes = (len(self.parts), self.most)

        def inputs(stacked: Tensor) -> Tensor:
            """(N, length, K) of (T K, length)."""
            return stacked.reshape(*sizes, -1).index_select(0, which).transpose(1, 2)

        def outputs(stacked: Tensor) -> Tensor:
            """(N, K, length) of (length, T K)."""
            return stacked.reshape(-1, *sizes).index_select(1, which).permute(1, 2, 0)

        h = None if self.a is None else torch.bmm(x, inputs(self.a))
        if self.y is not None:
            own = torch.bmm(F.linear(x, _given(site.right)), inputs(self.y))
            h = own if h is None else h + own
        assert h is not None
        change = None if self.b is None else torch.bmm(h, outputs(self.b))
        if self.z is not None:
            own = F.linear(torch.bmm(h, outputs(self.z)), _given(site.left))
            change = own if change is None else change + own
        assert change is not None
        return change


def _given(basis: Tensor | None) -> Tensor:
    assert basis is not None, "coordinates without a basis"
    return basis


def _stack(parts: Sequence[Part]) -> _Stack:
    most = max(part.count for part in parts)

    def stacked(tensors: Sequence[Tensor | None], dim: int) -> Tensor | None:
        """Tensors with k along ``dim`` one after another, each K long there."""
        some = next((x for x in tensors if x is not None), None)
        if some is None:
            return None
        shape = [len(tensors), *some.shape]
        shape[dim + 1] = most
        whole = some.new_zeros(shape)
        for own, x in zip(whole, tensors, strict=True):
            if x is not None:
                own.narrow(dim, 0, x.shape[dim]).copy_(x)
        return whole.movedim(0, dim).flatten(dim, dim + 1).contiguous()

    return _Stack(
        tuple(parts),
        most,
        stacked([part.y for part in parts], 0),
        stacked([part.a for part in parts], 0),
        stacked([part.z for part in parts], 1),
        stacked([part.b for part in parts], 1),
    )


@dataclass(frozen=True)
class _Share:
    """A stack and the rows of a batch that go through it; rows None: all of them, in order."""

    stack: _Stack
    rows: Tensor | None
    which: Tensor
    others: Tensor


class Mixed:
    """Each row of the batch its own part, or none.

    A batch of a multiple of the rows gives each part to as many rows in a row, which is the order
    in which transformers repeats a prompt for beams and for several answers.
    """

    def __init__(self, parts: Sequence[Part | None], name: str) -> None:
        self._parts, self._name = tuple(parts), name
        by_site: dict[Site, list[Part]] = {}
        for part in dict.fromkeys(x for x in parts if x is not None):
            by_site.setdefault(part.site, []).append(part)
        self._stacks = [_stack(x) for x in by_site.values()]
        self._layouts: dict[int, tuple[_Share, ...]] = {}

    @property
    def nbytes(self) -> int:
        return sum(stack.nbytes for stack in self._stacks)

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        change: Tensor | None = None
        for share in self._layout(x):
            own = _typed(_rows(rows, share.rows), share.stack.parts[0].site)
            own = share.stack(own, share.which, share.others).to(output.dtype)
            if share.rows is not None:
                own = own.new_zeros(len(rows), *own.shape[1:]).index_add(0, share.rows, own)
            change = own if change is None else change + own
        return output if change is None else output + change.reshape(output.shape)

    def _layout(self, x: Tensor) -> tuple[_Share, ...]:
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

    def _laid_out(self, times: int, device: torch.device) -> tuple[_Share, ...]:
        each = [part for part in self._parts for _ in range(times)]
        shares = []
        for stack in self._stacks:
            number = {part: i for i, part in enumerate(stack.parts)}
            rows = [i for i, x in enumerate(each) if x in number]
            which = torch.tensor([number[x] for x in each if x in number], device=device)
            others = which[:, None] != torch.arange(len(number), device=device)
            whole = len(rows) == len(each)
            index = None if whole else torch.tensor(rows, device=device)
            shares.append(_Share(stack, index, which, others))
        return tuple(shares)


def _rows(x: Tensor, at: Tensor | None) -> Tensor:
    return x if at is None else x.index_select(0, at)


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
