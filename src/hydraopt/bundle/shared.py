"""Decoded data that a bundle's tasks share: bases of modules, and the mean of coded tensors.

A reader of one task waits longest for this. The chunks of a stream are independent, so threads
decode several at the same time; the loops that do it release Python's lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from hydraopt.bundle.bounds import naming
from hydraopt.bundle.modules import ModuleEntry
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.tensors import TensorEntry
from hydraopt.coding.chunks import ChunkReader
from hydraopt.coding.dense import DenseRecord, matrix_shape, read_common
from hydraopt.coding.side import read_basis
from hydraopt.coding.stream import StreamReader
from hydraopt.files.url import AnyPath
from hydraopt.linalg.basis import Basis
from hydraopt.threads import cores

__all__ = ["Bases", "Commons", "at_once", "each_bases", "each_common", "read_shared"]

Bases = tuple[Basis | None, Basis | None]
"""Left (m, q) and right (n, q) basis of one module."""
Commons = list[DenseRecord | None]
"""Shared record of each coded tensor; None where tasks share nothing."""
Result = TypeVar("Result")

_MOST_VECTORS: Final = 1 << 16
MOST_THREADS: Final = 4
WORTH: Final = 1 << 19
"""Smallest number of values in a stream for which threads are worth their memory; 10 ms of work."""


def each_bases(reader: StreamReader, modules: Sequence[ModuleEntry]) -> Iterator[Bases]:
    """Yield the bases of these modules, which come next in the stream. Raises BundleFormatError."""
    for module in modules:
        left = read_basis(reader, module.m, min(module.m, _MOST_VECTORS))
        right = read_basis(reader, module.n, min(module.n, _MOST_VECTORS))
        reader.end_record()
        yield left, right


def each_common(
    reader: StreamReader, tensors: Sequence[TensorEntry]
) -> Iterator[DenseRecord | None]:
    """Yield the shared records of these tensors, which come next in the stream.

    Raises BundleFormatError.
    """
    for tensor in tensors:
        common = read_common(reader, matrix_shape(tensor.shape))
        reader.end_record()
        yield common


def read_shared(
    reader: StreamReader, manifest: Manifest, path: AnyPath
) -> tuple[list[Bases], Commons]:
    """Decode all records of the stream, with several threads if it is long and processors allow.

    path: named in errors, which are the same for any number of threads.

    Raises BundleFormatError.
    """
    count = len(manifest.modules)

    def job(piece: StreamReader, first: int, end: int) -> Callable[[], tuple[list[Bases], Commons]]:
        modules = manifest.modules[first:end]
        tensors = manifest.tensors[max(first - count, 0) : max(end - count, 0)]

        def read() -> tuple[list[Bases], Commons]:
            with naming(path):
                bases = list(each_bases(piece, modules))
                commons = list(each_common(piece, tensors))
                piece.close()
            return bases, commons

        return read

    threads = min(cores(), MOST_THREADS)
    if threads < 2 or not isinstance(reader, ChunkReader) or reader.numbers < WORTH:
        return job(reader, 0, count + len(manifest.tensors))()
    jobs, first = [], 0
    with naming(path):
        for records, piece in reader.apart():
            jobs.append(job(piece, first, first + records))
            first += records
    done = at_once(jobs, threads)
    return [x for bases, _ in done for x in bases], [x for _, some in done for x in some]


def at_once(jobs: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """Run the jobs and return their results in order.

    threads: number of threads that work on them, the calling one included.

    Raises the exception of the first job that failed, in job order; later jobs may be skipped.
    """
    waiting = deque(enumerate(jobs))
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}

    def work() -> None:
        while True:
            try:
                i, job = waiting.popleft()
            except IndexError:
                return
            try:
                results[i] = job()
            except BaseException as error:
                failures[i] = error
                waiting.clear()

    helpers = [threading.Thread(target=work) for _ in range(min(threads, len(jobs)) - 1)]
    started = []
    for helper in helpers:
        try:
            helper.start()
        except RuntimeError:  # no memory for one more: then fewer do it
            break
        started.append(helper)
    work()
    for helper in started:
        helper.join()
    if failures:
        raise failures[min(failures)]
    return [results[i] for i in range(len(jobs))]
