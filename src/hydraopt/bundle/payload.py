"""Code carried tensors without loss, and decode what the tasks of a bundle share.

Tensors that the same set of tasks holds go into one blob. The bytes of its distinct tensors,
grouped by element size, are split into byte planes (all first bytes, then all second bytes, ...),
because the exponents of neighbouring floats are alike and their mantissas are not, and the planes
are deflated.

A reader of one task waits longest for this. The chunks of a stream are independent, so threads
decode several at the same time; the loops that do it release Python's lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from hydraopt.adapters import RawTensor
from hydraopt.bundle.encoding import MOST_CONTENT, deflate, inflate
from hydraopt.bundle.entries import MAX_RAW, CarriedBlob, CarriedItem, ModuleEntry
from hydraopt.bundle.limits import naming
from hydraopt.bundle.manifest import Manifest
from hydraopt.bundle.tensors import TensorEntry
from hydraopt.codec import (
    Aside,
    Basis,
    ChunkReader,
    DenseRecord,
    Laid,
    Place,
    StreamReader,
    cores,
    matrix_shape,
    read_basis,
    read_common,
)
from hydraopt.files import AnyPath

_WIDTHS = (8, 4, 2, 1)


@dataclass
class Carried:
    """Carried tensors packed into blobs.

    blobs, data: the blobs, and in the same order their bytes, which lie in a file where there are
    many.
    tasks: indices of the blobs of each task, by name.
    """

    blobs: list[CarriedBlob] = field(default_factory=list)
    data: Sequence[bytes] = ()
    tasks: dict[str, tuple[int, ...]] = field(default_factory=dict)


def pack_carried(tensors: Mapping[str, Mapping[str, RawTensor]]) -> Carried:
    """Pack the carried tensors of each task, given by task name and key, into blobs.

    The result depends on what tasks hold, not on the order in which they name it. Tensors are read
    twice, one at a time; memory is about that of the largest blob. Raises OSError if the temporary
    folder is full.
    """
    holders: dict[tuple[str, str, tuple[int, ...], bytes], list[tuple[str, RawTensor]]] = {}
    for task in sorted(tensors):
        for key, tensor in tensors[task].items():
            digest = hashlib.sha256(tensor.raw()).digest()
            holders.setdefault((key, tensor.dtype, tensor.shape, digest), []).append((task, tensor))
    groups: dict[tuple[str, ...], list[_Member]] = {}
    for (key, dtype, shape, digest), held in sorted(holders.items(), key=lambda x: x[0]):
        tasks = tuple(task for task, _ in held)
        item = CarriedItem(key, dtype, shape)
        groups.setdefault(tasks, []).append((item, digest, held[0][1]))
    aside, places = Aside(), list[Place]()
    result = Carried(tasks=dict.fromkeys(tensors, ()))
    for tasks, members in sorted(groups.items(), key=lambda x: x[0]):
        for some in _parted(members):
            for task in tasks:
                result.tasks[task] += (len(result.blobs),)
            blob, data = _packed(some)
            result.blobs.append(blob)
            places.append(aside.put(data))
    result.data = Laid(aside, places)
    return result


_Member = tuple[CarriedItem, bytes, RawTensor]
"""An item, the digest of its bytes, the tensor."""


def _parted(members: list[_Member]) -> Iterator[list[_Member]]:
    """Yield the members of one blob, or of several where 32 bits cannot state the size of one."""
    some: list[_Member] = []
    size = 0
    for member in members:
        if some and size + member[0].nbytes > MOST_CONTENT:
            yield some
            some, size = [], 0
        some.append(member)
        size += member[0].nbytes
    yield some


def _packed(members: list[_Member]) -> tuple[CarriedBlob, bytes]:
    """Pack the members into a blob that stores each distinct content once."""
    items: list[CarriedItem] = []
    first: dict[tuple[bytes, int], int] = {}
    distinct: list[RawTensor] = []
    for item, digest, tensor in members:
        of = first.setdefault((digest, item.itemsize), len(items))
        if of == len(items):
            items.append(item)
            distinct.append(tensor)
        else:
            items.append(CarriedItem(item.key, item.dtype, item.shape, of))
    blob = CarriedBlob(tuple(items))
    return blob, deflate(_planes(blob, distinct))


def _planes(blob: CarriedBlob, tensors: Sequence[RawTensor]) -> memoryview:
    """Split the distinct tensors of a blob into byte planes, wide elements first."""
    stored = [item for item in blob.items if item.of is None]
    planes, start = np.empty(blob.raw_size, np.uint8), 0
    for width in _WIDTHS:
        group = [x for x in zip(stored, tensors, strict=True) if x[0].itemsize == width]
        size = sum(item.nbytes for item, _ in group)
        plane, column = planes[start : start + size].reshape(width, -1), 0
        for item, tensor in group:
            stop = column + item.nbytes // width
            plane[:, column:stop] = np.frombuffer(tensor.raw(), np.uint8).reshape(-1, width).T
            column = stop
        start += size
    return planes.data


def unpack_blob(blob: CarriedBlob, data: bytes, path: AnyPath) -> dict[str, RawTensor]:
    """Return the tensors of a blob by key; raise BundleFormatError before allocating too much."""
    planes = memoryview(inflate(data, blob.raw_size, MAX_RAW, "a blob of carried tensors"))
    joined: dict[int, bytes] = {}
    position = 0
    for width in _WIDTHS:
        own = (x for x in blob.items if x.of is None and x.itemsize == width)
        size = sum(item.nbytes for item in own)
        plane = np.frombuffer(planes[position : position + size], np.uint8)
        joined[width] = plane.reshape(width, -1).T.tobytes()
        position += size
    places: list[int] = []
    used = dict.fromkeys(_WIDTHS, 0)
    tensors = {}
    for item in blob.items:
        if item.of is None:
            places.append(used[item.itemsize])
            used[item.itemsize] += item.nbytes
        else:
            places.append(places[item.of])
        part = slice(places[-1], places[-1] + item.nbytes)

        # Slices share a decoded plane, so copies cost nothing until they are read.
        def read(plane: bytes = joined[item.itemsize], part: slice = part) -> bytes:
            return plane[part]

        tensors[item.key] = RawTensor(item.key, item.dtype, item.shape, path, read)
    return tensors


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
