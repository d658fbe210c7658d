"""Lossless coding of the tensors that are not low-rank products.

Tensors that the same set of tasks holds go into one blob. The bytes of its distinct tensors,
grouped by element size, are split into byte planes (all first bytes, then all second bytes, ...),
because the exponents of neighbouring floats are alike and their mantissas are not, and the planes
are deflated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.container import MOST_CONTENT, deflate, inflate
from hydraopt.bundle.items import MAX_RAW, CarriedBlob, CarriedItem
from hydraopt.files.aside import Aside, Laid, Place
from hydraopt.files.url import AnyPath

__all__ = ["Carried", "pack_carried", "unpack_blob"]

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
