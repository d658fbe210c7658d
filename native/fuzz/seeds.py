"""Writes seeds for the fuzz targets: golden and hostile files, and mutants of them.

PYTHONPATH=src:. python -m native.fuzz.seeds FOLDER        makes FOLDER/bundles, FOLDER/texts
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

from tests.bundle.hostile.generate import generate
from tests.bundle.test_bundle_hostile import parts_with_blob
from tests.native.mutants import Pieces, mutant, sources

_PATTERNS = (r"(.*\.)?(h\.\d+\.(q|v)_proj)$", r".*?\.[^.]*\.(\d+)\.", r"^(?:a{2,3}?b|[^x\w]+)*\bq$")


def main(folder: Path) -> None:
    sound = sources()
    bundles = [*sound, *(case[1] for case in generate(parts_with_blob()))]
    bundles += [mutant(number, 3, sound) for number in range(100)]
    texts = [Pieces.of(data).text for data in sound]
    texts += [zlib.compress(x[:4096].ljust(4096), level) for x in texts for level in (0, 6)]
    texts += [bytes([len(x)]) + x.encode() + b"model.h.11.q_proj" for x in _PATTERNS]
    for name, files in (("bundles", bundles), ("texts", texts)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(files):
            (folder / name / f"{number:04}").write_bytes(data)
        print(f"{len(files)} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
