"""Write seeds for the fuzz targets: golden and hostile files, and mutants of them.

PYTHONPATH=src:. python -m native.fuzz.seeds FOLDER   # makes FOLDER/bundles, parts, faults, texts
"""

from __future__ import annotations

import random
import sys
import zlib
from pathlib import Path

from benchmarks.hostile import forge
from tests.bundle.test_bundle_hostile import CLAIMS
from tests.native.mutants import Pieces, sources

_CASES = Path(__file__).parents[2] / "conformance" / "cases"
_PATTERNS = (r"(.*\.)?(h\.\d+\.(q|v)_proj)$", r".*?\.[^.]*\.(\d+)\.", r"^(?:a{2,3}?b|[^x\w]+)*\bq$")


def joined(*files: bytes) -> bytes:
    """Files as one input of the targets parts and faults."""
    return b"".join(len(data).to_bytes(4, "little") + data for data in files)


def folders(apart: Path) -> list[list[bytes]]:
    """A core with its tasks in several orders and subsets."""
    core = next(apart.glob("*.core.safetensors")).read_bytes()
    tasks = [path.read_bytes() for path in sorted(apart.glob("*.task.safetensors"))]
    return [[core, *tasks], [*tasks, core], [core], [core, tasks[0], tasks[0]], [core, core], tasks]


def faults(draw: random.Random) -> bytes:
    """Which calls fail, as faults.c reads it."""
    head = [0] * 8
    kind = draw.randrange(5)
    if kind == 0:
        head[0:2] = draw.randrange(1, 256), draw.randrange(2)
    elif kind in (1, 2):
        head[1 + kind] = draw.randrange(1, 40)
    else:
        head[1 + kind] = draw.randrange(1, 256)
    head[6] = draw.randrange(4)
    return bytes(head)


def main(folder: Path) -> None:
    draw = random.Random(0)
    sound = [*sources(), *(x.read_bytes() for x in sorted(_CASES.glob("start*.safetensors")))]
    bundles = [
        *sound,
        *CLAIMS.values(),
        *(x.read_bytes() for x in sorted(_CASES.glob("r*.safetensors"))),
    ]
    ways = [*forge.BUNDLE.values()]
    bundles += [draw.choice(ways)(draw.choice(sound), draw) for _ in range(100)]
    apart = [*folders(_CASES / "apart"), *folders(_CASES / "starts-apart")]
    parts = [joined(*files) for files in apart] + [joined(data) for data in sound]
    broken = [faults(draw) + data for data in parts for _ in range(8)]
    texts = [Pieces.of(data).text for data in sound]
    texts += [zlib.compress(x[:4096].ljust(4096), level) for x in texts for level in (0, 6)]
    texts += [bytes([len(x)]) + x.encode() + b"model.h.11.q_proj" for x in _PATTERNS]
    targets = {"bundles": bundles, "parts": parts, "faults": broken, "texts": texts}
    for name, files in targets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(files):
            (folder / name / f"{number:04}").write_bytes(data)
        print(f"{len(files)} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
