"""The safetensors container and zstd: exact sizes, bounded decompression."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import zstandard

from hydraopt.errors import BundleFormatError, explain

__all__ = [
    "FORMAT",
    "compress",
    "decompress",
    "header_of",
    "tensor_names",
]

FORMAT: Final = "hydraopt"

_LEVEL: Final = 19
# Level 19 takes a minute for each 200 MB; whole saved embeddings hardly gain by it.
_LARGE: Final = 64 << 20
_LARGE_LEVEL: Final = 9

_FREE: Final = 256 << 20
_RATIO: Final = 4096


def compress(data: bytes) -> bytes:
    """One zstd frame that states its content size; the same bytes for the same zstd version.

    Raises BundleFormatError for data so regular that :func:`decompress` would take it for a bomb.
    """
    level = _LEVEL if len(data) <= _LARGE else _LARGE_LEVEL
    packed = zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)
    if len(data) > _most(len(packed)):
        raise BundleFormatError(
            explain(
                "data is too regular to be stored",
                got=f"{len(data)} bytes, {len(packed)} compressed",
                expected=f"at most {_most(len(packed))} bytes",
                do="Large constant tensors carry nothing; leave them out of the adapter",
            )
        )
    return packed


def decompress(data: bytes, size: int | None, most: int, what: str) -> bytes:
    """The content of one zstd frame; nothing is allocated before its stated size was checked.

    size: the size it must have, or None if only the frame knows; most: the largest size allowed.
    Raises BundleFormatError.
    """
    try:
        # All ones if the frame does not state its size, which the cap then refuses.
        stated = zstandard.get_frame_parameters(data).content_size
        most = min(most, _most(len(data)))
        if stated > most or (size is not None and stated != size):
            _refuse(
                what, f"{stated} bytes, as its frame says", f"{size or f'at most {most}'} bytes"
            )
        # The one-shot call trusts the frame's size, which is checked by now, and a second frame or
        # other bytes behind it are refused.
        content = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        _refuse(what, str(error), "one zstd frame")
    if len(content) != stated:
        _refuse(what, f"{len(content)} bytes", f"{stated} bytes")
    return content


def _most(packed: int) -> int:
    """Largest content that so many compressed bytes may stand for."""
    return _FREE + _RATIO * packed


def _refuse(what: str, got: str, expected: str) -> Any:
    do = "The bundle is damaged; fetch it again or restore a copy"
    raise BundleFormatError(
        explain(f"{what} cannot be unpacked", got=got, expected=expected, do=do)
    )


def tensor_names(streams: int, blobs: int) -> list[str]:
    """Names of a bundle's tensors, in file order."""
    tasks = [f"task/{i}" for i in range(streams)]
    return ["manifest", "shared", *tasks, *(f"carried/{i}" for i in range(blobs))]


def header_of(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> bytes:
    """The head of a safetensors file: length and JSON header of (name, dtype, shape, bytes).

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
