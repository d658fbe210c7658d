"""Bundles with starts: sides over an initial A, sound ones and others that a reader refuses."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hydraopt.bundle.container import INDEX_NAME
from hydraopt.coding.tables import Kind
from hydraopt.collection.splitting import split
from tests.conformance.forging import FINE, Case, broken, damaged, forged, lossless
from tests.conformance.rans import Coder, stream
from tests.conformance.sound import LORA, basis, bundle, columns, errors, record
from tests.native.mutants import Pieces

SEED, NUMBERS = 42, 300_000
_M, _K = 6, 2


class Row(NamedTuple):
    """Module of n inputs, and a task's record in it.

    first, rows: place and rows of the initial A; None, 0: the ways of both sides are written
    without it. own: number of own directions. k: number of parts. q: widths of the shared bases.
    mode: as written, of a started record.
    """

    n: int
    first: int | None = None
    rows: int = 0
    own: int = 0
    k: int = _K
    ways: tuple[int, int] = (0, 0)
    q: tuple[int, int] = (0, 0)
    mode: int = 9

    def write(self, coder: Coder, seed: int) -> int:
        """Append the record; return its numbers."""
        if self.first is None:
            q = self.q if any(self.q) else (1, 1)  # the mode is stated in any case
            record(coder, _M, self.n, self.k, self.ways, q, seed)
            return self.k * (_M + self.n)
        coder.side(Kind.COUNT, self.k)
        coder.side(Kind.MODE, self.mode)
        coder.side(Kind.COUNT, self.rows)
        coder.list(Kind.COUNT, [self.first])
        coder.block(columns(max(self.rows, 1), self.k, seed + 1, 30), shape=1)
        basis(coder, self.n, self.own, seed + 3)
        if self.own > 0:
            coder.block(columns(self.own, self.k, seed + 4, 24), shape=1)
        coder.block(columns(_M, self.k, seed + 2))
        coder.list(Kind.EXPONENT, [-200 + 7 * i for i in range(self.k)])
        return self.k * (_M + self.n) + self.n * (max(self.rows, 0) + max(self.own, 0))


def started(
    rows: Sequence[Row], starts: Sequence[Any] = ([SEED, NUMBERS],), cuts: Sequence[int] = ()
) -> bytes:
    """Return a bundle with a module for each row, and a task for each start.

    The streams differ. cuts: modules before which a chunk ends.
    """
    shared, streams = [], {}
    for i, row in enumerate(rows):
        coder = Coder()
        basis(coder, _M, row.q[0], i)
        basis(coder, row.n, row.q[1], i + 100)
        shared.append((1, _M * row.q[0] + row.n * row.q[1], coder.finish()))
    for task in range(len(starts)):
        edges = [0, *cuts, len(rows)]
        chunks = []
        for start, stop in pairwise(edges):
            coder = Coder()
            numbers = sum(rows[i].write(coder, i + 50 * task) for i in range(start, stop))
            chunks.append((stop - start, numbers, coder.finish()))
        streams[f"task_{task}"] = stream(*chunks)
    names = [chr(ord("a") + i) for i in range(len(starts))]
    manifest = {
        "modules": {
            "path": [f"h.{i}.q" for i in range(len(rows))],
            "m": {"=": _M},
            "n": [row.n for row in rows],
        },
        "tasks": {
            "name": names,
            "content": [*range(len(starts))],
            "start": [*starts],
            "errors": {"=": errors(len(rows))},
            "dtype": {"=": "F32"},
        },
        "configs": [LORA],
    }
    has_bases = any(any(row.q) for row in rows)
    return bundle(manifest, shared=stream(*shared) if has_bases else b"", **streams)


_BASES = (3, 2)
_EVERY = [
    Row(9, 0, 2, 1),
    Row(9),  # explicit sides, in a task with a start
    Row(16, 623, 3),
    Row(17, 624, 1, 2),
    Row(1, 1247, 1, 1, k=1),
    Row(5, 2 * (1 << 17) + 1, 4, 1, k=3),
    Row(4, (1 << 17) - 3, 2),
    Row(64, NUMBERS - 2 * 64, 2, 2),
    Row(9, 0, 2, 1),
]


def sound() -> Iterator[Case]:
    """Yield sound cases."""
    yield "started-anywhere", started(_EVERY), FINE
    yield "started-in-chunks", started(_EVERY, cuts=(3, 4, 7)), FINE
    both = [Row(9, 100, 2, own, q=_BASES) for own in (0, 2)]
    ways = [Row(9, ways=ways, q=_BASES) for ways in ((0, 1), (2, 0), (1, 2), (0, 0))]
    over = [both[0], *ways, both[1], Row(9, 0, 1)]
    yield "started-over-bases", started(over), FINE
    seeds = [[0, 100], [SEED, 1 << 20], [(1 << 32) - 1, 100]]
    several = started([Row(9, 20, 2, 1, q=_BASES), Row(12, 70, 2)], seeds, cuts=(1,))
    yield "starts", several, FINE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "several.hydra.safetensors"
        path.write_bytes(several)
        split(path, Path(folder) / "apart")
        files = {x.name: x.read_bytes() for x in sorted((Path(folder) / "apart").iterdir())}
    files.pop(INDEX_NAME)  # it has times
    yield "starts-apart", files, FINE
    yield "started-and-coded", _and_coded(), FINE


def _and_coded() -> bytes:
    """Return a task with a start and a coded tensor of parts, whose record states no mode."""
    whole, tensor = Coder(), Coder()
    row = Row(9, 5, 2, 1)
    numbers = row.write(whole, 1)
    tensor.side(Kind.COUNT, 2)
    record(tensor, 8, 3, 1, (0, 0), (0, 0), 2)
    manifest = {
        "modules": {"path": ["h.0.q"], "m": [_M], "n": [9]},
        "tensors": {"key": ["w"], "shape": [[3, 8]]},
        "tasks": {
            "name": ["t"], "content": [0], "start": [[SEED, 100]], "errors": [errors(1)],
            "tensors": ["all"], "tensor_errors": [errors(1)],
        },
        "configs": [LORA],
    }  # fmt: skip
    chunks = (1, numbers, whole.finish()), (1, 8 + 3 + 3 * 8, tensor.finish())
    return bundle(manifest, task_0=stream(*chunks))


def refused() -> Iterator[Case]:
    """Yield cases that a reader refuses."""
    one = [Row(9, 0, 2)]
    for i, start in enumerate((
        [42], [42, 1, 1], "42", [-1, 100], [1 << 32, 100], [42.0, 100], [True, 100], [42, 0],
        [42, (1 << 30) + 1],
    )):  # fmt: skip
        yield f"r09-task-start-{i}", started(one, [start]), damaged(9)
    other = _changed(lambda tasks: tasks.update(content=[0, 0]), keep=1)
    yield "r12-other-starts-of-one-stream", other, damaged(12)
    kept = forged("linear", lossless({}, start=[SEED, 100]))
    yield "r13-lossless-with-a-start", kept, damaged(13)
    many = [[seed, (1 << 23) + 200_000] for seed in range(2)]
    yield "r19-numbers-of-starts", started(one, many), damaged(19)
    for name, row in (
        ("no-rows", Row(9, 0, 0)),
        ("rows-below-0", Row(9, 0, -1)),
        ("too-many-rows", Row(9, 0, 12)),
        ("a-place-below-0", Row(9, -1, 2)),
        ("a-place-beyond", Row(9, 100 - 2 * 9 + 1, 2)),
        ("own-directions-below-0", Row(9, 0, 2, -1)),
        ("more-own-directions-than-parts", Row(9, 0, 2, 3)),
        ("more-own-directions-than-inputs", Row(1, 0, 2, 2)),
        ("mode-10", Row(9, 0, 2, mode=10)),
        ("shared-without-a-basis-in-a-started", Row(9, ways=(0, 1))),
    ):
        yield f"r28-{name}", started([row], [[SEED, 100]]), broken(28)
    over = [Row(9, 0, 2, q=_BASES)]
    yield "r28-mode-9-without-a-start", started(over, [None]), broken(28)


def _changed(change: Callable[[dict[str, Any]], None], keep: int) -> bytes:
    """Return two tasks with starts, with a change to their table and so many streams."""
    pieces = Pieces.of(started([Row(9, 0, 2)], [[1, 100], [2, 100]]))
    whole = json.loads(pieces.text)
    change(whole["tasks"])
    pieces.text = json.dumps(whole, separators=(",", ":")).encode()
    for i in range(keep, 2):
        del pieces.payload[f"task/{i}"]
    return pieces.pack()
