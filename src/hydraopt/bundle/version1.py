"""Files of format 1, which are read and no longer written.

They pack with zstd where version 2 deflates, their streams have no chunks, their limits are wider,
and their manifests know neither coded tensors nor harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import zstandard

from hydraopt.bundle.container import refuse
from hydraopt.bundle.rules import Rules
from hydraopt.bundle.strictjson import check
from hydraopt.coding.stream import StreamReader

__all__ = ["RULES", "unpack"]

_FREE: Final = 256 << 20
_RATIO: Final = 4096
_EXPECTED: Final = "one zstd frame"


def unpack(data: bytes, size: int | None, most: int, what: str) -> bytes:
    """The content of one zstd frame; as :func:`hydraopt.bundle.container.inflate` else."""
    try:
        # All ones if the frame does not state its size, which the cap then refuses.
        stated = zstandard.get_frame_parameters(data).content_size
        most = min(most, _FREE + _RATIO * len(data))
        if stated > most or (size is not None and stated != size):
            expected = f"{size or f'at most {most}'} bytes"
            refuse(what, f"{stated} bytes, as its frame says", expected)
        # The one-shot call trusts the frame's size, which is checked by now, and a second frame or
        # other bytes behind it are refused.
        content = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        refuse(what, str(error), _EXPECTED)
    if len(content) != stated:
        refuse(what, f"{len(content)} bytes", f"{stated} bytes")
    return content


def _stream(data: bytes, records: int, most: Callable[[int], None]) -> StreamReader:
    del records  # Its streams do not say how many they have.
    return StreamReader(data, 1, most)


def _check(manifest: Any) -> None:
    """Refuse a manifest that says what version 1 has no word for."""
    if not isinstance(manifest, Mapping):
        return
    check("tensors" not in manifest, "coded tensors in a file of version 1")
    tasks = manifest.get("tasks")
    columns = set(tasks) if isinstance(tasks, Mapping) else set()
    measured = sorted({"harm", "curve"} & columns)
    check(not measured, "harm in a file of version 1", measured)
    check("added" not in columns, "history in a file of version 1")


RULES: Final = Rules(
    version=1,
    unpack=unpack,
    stream=_stream,
    check=_check,
    text=(1 << 23, 64),
    numbers=(1 << 22, 256),
    carried=(1 << 26, 256),
)
