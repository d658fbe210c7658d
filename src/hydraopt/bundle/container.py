"""Read the safetensors container, and unpack deflated tensors within bounds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from hydraopt.errors import BundleFormatError, explain
from hydraopt.files.parts import CORE_SUFFIX, INDEX_NAME, TASK_SUFFIX

__all__ = [
    "BUNDLE_SUFFIX",
    "CORE",
    "CORE_SUFFIX",
    "FORMAT",
    "INDEX",
    "INDEX_NAME",
    "MOST_CONTENT",
    "TASK",
    "TASK_SUFFIX",
    "deflate",
    "header_of",
    "inflate",
    "refuse",
    "tensor_names",
]

BUNDLE_SUFFIX: Final = ".hydra.safetensors"
FORMAT: Final = "hydraopt"
CORE: Final = "hydraopt-core"
TASK: Final = "hydraopt-task"
INDEX: Final = "hydraopt-index"
"""Values of ``format`` in the header of a bundle, a core file, a task file and an index."""

MOST_CONTENT: Final = (1 << 32) - 1
"""Maximum bytes of content whose size fits 32 bits."""
_LEVEL: Final = 9
_SIZE_BYTES: Final = 4


def deflate(data: bytes | memoryview, level: int = _LEVEL) -> bytes:
    """Compress to the size in 32 bits and one zlib stream; the same zlib gives the same bytes.

    Raises BundleFormatError for content whose size does not fit 32 bits.
    """
    if len(data) > MOST_CONTENT:
        raise BundleFormatError(
            explain(
                "a tensor is too large to be kept",
                got=f"{len(data)} bytes",
                expected=f"at most {MOST_CONTENT}",
                do="Leave the adapter out",
            )
        )
    return len(data).to_bytes(_SIZE_BYTES, "little") + zlib.compress(data, level)


def inflate(data: bytes, size: int | None, most: int, what: str) -> bytes:
    """Decompress the output of :func:`deflate`; check the stated size before allocating anything.

    size: the size it must have, or None if only the data says.
    most: the largest size allowed.

    Raises BundleFormatError.
    """
    if len(data) < _SIZE_BYTES:
        refuse(what, f"{len(data)} bytes", "its size and one zlib stream")
    stated = int.from_bytes(data[:_SIZE_BYTES], "little")
    if stated > most or (size is not None and stated != size):
        expected = f"at most {most} bytes" if size is None else f"{size} bytes"
        refuse(what, f"{stated} bytes, as it says", expected)
    stream = zlib.decompressobj()
    try:
        # One byte more than stated, so that more is seen, and the checksum is read in any case.
        content = stream.decompress(memoryview(data)[_SIZE_BYTES:], stated + 1)
    except zlib.error as error:
        refuse(what, str(error), "one zlib stream")
    if len(content) != stated:
        got = "more" if len(content) > stated else f"{len(content)}"
        refuse(what, f"{got} bytes", f"{stated} bytes")
    if not stream.eof or stream.unused_data:
        got = "bytes after it" if stream.eof else "a part of it"
        refuse(what, got, "one whole zlib stream")
    return content


def refuse(what: str, got: str, expected: str) -> NoReturn:
    """Raise BundleFormatError about packed bytes."""
    do = "The bundle is damaged; fetch it again or restore a copy"
    raise BundleFormatError(
        explain(f"{what} cannot be unpacked", got=got, expected=expected, do=do)
    )


def tensor_names(streams: int, blobs: int) -> list[str]:
    """Return the names of a bundle's tensors, in file order."""
    tasks = [f"task/{i}" for i in range(streams)]
    return ["manifest", "shared", *tasks, *(f"carried/{i}" for i in range(blobs))]


def header_of(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> bytes:
    """Return the head of a safetensors file: length and JSON header of (name, dtype, shape, bytes).

    The header is not padded: U8 data needs no alignment, and a bundle has no other.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape, size in tensors:
        offsets = [position, position + size]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text
