"""Write the core of libhydra as one file: hydra.c, with hydra.h beside it.

    python native/single.py FOLDER
    cc -c FOLDER/hydra.c

It opens bundles and gives factors and tensors; it writes no adapters and opens no files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NATIVE = Path(__file__).parent
CORE = NATIVE / "src" / "core"
HEAD = """\
/* libhydra's core in one file, made by native/single.py of hydraopt. SPDX-License-Identifier: \
Apache-2.0 */
/* A product and a sum are two roundings, on every machine: adapters are the same bytes. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
"""
LOCAL = re.compile(r'^#include "(?!hydra\.h)([\w.]+)"\n', re.MULTILINE)


def whole(path: Path, seen: set[Path]) -> str:
    """The text of a file, with the headers of the core in the place where it includes them."""
    if path in seen:
        return ""
    seen.add(path)
    own = path.read_text(encoding="utf-8")
    return LOCAL.sub(lambda found: whole(CORE / found[1], seen), own)


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[Path] = set()
    parts = [HEAD, *(whole(path, seen) for path in sorted(CORE.glob("*.c")))]
    (folder / "hydra.c").write_text("\n".join(parts), encoding="utf-8")
    header = (NATIVE / "include" / "hydra.h").read_text(encoding="utf-8")
    (folder / "hydra.h").write_text(header, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
