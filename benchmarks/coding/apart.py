"""Measure the extra bytes of a bundle that is split into a core and task files, by cause.

    python -m benchmarks.coding apart BUNDLE ...

Streams are the same in both. So only heads of files (the header of safetensors) and manifests
differ. ``least`` is what the manifests would take if each were packed by the best of all settings
of zlib.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt.bundle.container import CORE, FORMAT, INDEX_NAME, TASK, inflate
from hydraopt.bundle.contents import Container
from hydraopt.collection.splitting import split
from hydraopt.files.url import AnyPath

_SETTINGS = list(product(range(1, 10), range(1, 10), range(5)))
"""Levels, sizes of memory and strategies of zlib."""
_SIZE_BYTES = 4


def least_deflated(data: bytes) -> int:
    """Return the bytes that zlib needs for the content of packed data, at its best settings."""
    content = inflate(data, None, 1 << 32, "a manifest")
    sizes = []
    for level, memory, strategy in _SETTINGS:
        packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, memory, strategy)
        sizes.append(len(packer.compress(content) + packer.flush()))
    return _SIZE_BYTES + min(sizes)


def parts_of(paths: Sequence[AnyPath]) -> dict[str, int]:
    """Return the bytes of files: all, of heads, of manifests, and of manifests at the least."""
    parts = {"bytes": 0, "heads": 0, "manifests": 0, "least": 0}
    for path in paths:
        file = Container(path, (FORMAT, CORE, TASK))
        manifest = file.read("manifest")
        sizes = file.size, file.header, len(manifest), least_deflated(manifest)
        for name, size in zip(parts, sizes, strict=True):
            parts[name] += size
    return parts


def measure(path: Path) -> dict[str, Any]:
    """Return the row of a bundle."""
    with tempfile.TemporaryDirectory() as folder:
        made = split(path, Path(folder) / "apart")
        files = [x.path for x in made if x.path.name != INDEX_NAME]
        return {
            "bundle": path.name.partition(".")[0],
            "tasks": len(files) - 1,
            "whole": parts_of([path]),
            "apart": parts_of(files),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    args = parser.parse_args(arguments)
    rows = [measure(path) for path in args.bundles]
    for row in rows:
        print(row)
    print(write_result(CODING, "apart", provenance("bytes of a bundle in several files"), rows))


if __name__ == "__main__":
    main()
