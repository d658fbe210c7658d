"""What others make of the same adapters: bytes on disk, relative errors, and factors to score.

    python benchmarks/quality/rivals.py ADAPTERS... [--out FOLDER] [--only NAME,NAME]

Rivals: ``group`` rounds A and B to 8, 4, 3 or 2 bits in groups of 32 with an fp16 scale; ``svd``
truncates every adapter in fp16 at one threshold; ``lorashare`` and ``vlora`` are the packages, each
in its own environment, at several k. All are really written and read back. ``--out`` keeps the
rebuilt factors as FOLDER/NAME/SETTING/TASK.safetensors: "PATH.B" (m, r) with the scale inside and
"PATH.A" (r, n). A scorer that runs in the same process takes :func:`iter_rivals`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import provenance, write_result  # noqa: E402
from benchmarks.rivals.environments import LORASHARE, VLORA, peer_python, run_lines  # noqa: E402
from benchmarks.rivals.base import (  # noqa: E402
    Compressor,
    Floats,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.private import cut_by_energy, rounding, svd  # noqa: E402
from hydraopt.adapters import Adapter, read_adapters  # noqa: E402

__all__ = ["Rival", "iter_peers", "iter_rivals", "rivals"]

FactorsByModule = Mapping[str, tuple[Floats, Floats]]

BITS = (8, 4, 3, 2)
FRACTIONS = (0.5, 0.25, 0.1, 0.05, 0.025)
LORASHARE_K = (2, 4, 8, 16, 32, 64, 112)
VLORA_K = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Rival:
    """One rival at one setting. A failure has no factors and says why in ``failed``."""

    name: str
    setting: str
    bytes: int
    factors: Mapping[str, FactorsByModule] = field(repr=False)
    seconds: float | None = None
    failed: str | None = None


Maker = Callable[[Sequence[Adapter]], Iterator[Rival]]


def _packed(name: str, rows: Sequence[Compressor]) -> Maker:
    def make(adapters: Sequence[Adapter]) -> Iterator[Rival]:
        for row in rows:
            with tempfile.TemporaryDirectory() as folder:
                found = pack(row, tasks_of(adapters), Path(folder))
            yield Rival(name, row.setting, found.bytes, found.factors, found.write_seconds)

    return make


def _rebuilt(adapters: Sequence[Adapter], folder: Path) -> dict[str, FactorsByModule]:
    """Factors of a peer's rebuilt files; the original's scale is folded in, lost or not."""
    result: dict[str, FactorsByModule] = {}
    for adapter in adapters:
        tensors = load_file(str(folder / f"{adapter.source.parent.name}.safetensors"))
        mine: dict[str, tuple[Floats, Floats]] = {}
        for path, module in adapter.modules.items():
            b = tensors.get(adapter.peft_key(path, "B"))
            a = tensors.get(adapter.peft_key(path, "A"))
            if b is None or a is None:  # the peer dropped it
                b, a = np.zeros((module.m, 1), np.float32), np.zeros((1, module.n), np.float32)
            mine[path] = (b * np.float32(module.scale), a)
        result[adapter.name] = mine
    return result


def _peer(name: str, requirement: str, script: str, ks: Sequence[int]) -> Maker:
    def make(adapters: Sequence[Adapter]) -> Iterator[Rival]:
        try:
            python = peer_python(requirement)
        except RuntimeError as error:
            yield Rival(name, "install", 0, {}, failed=str(error))
            return
        folders = [adapter.source.parent for adapter in adapters]
        here = Path(__file__).resolve().parent / script
        with tempfile.TemporaryDirectory() as work:
            command = [python, here, work, ",".join(map(str, ks)), *folders]
            for row in run_lines(command):
                note = ", fp32 copies" if row.get("fp32_copies") else ""
                setting = f"k={row.get('k', '?')} {row.get('dtype', 'as given')}{note}"
                if "failed" in row:
                    yield Rival(name, setting, 0, {}, failed=row["failed"])
                    continue
                factors = _rebuilt(adapters, Path(row["rebuilt"]))
                yield Rival(name, setting, row["bytes"], factors, row["seconds"])

    return make


MAKERS: dict[str, Maker] = {
    "group": _packed("group", [rounding(bits) for bits in BITS]),
    "svd": _packed("svd", [svd(cut_by_energy(x), f"{100 * x:g} %") for x in FRACTIONS]),
    "lorashare": _peer("lorashare", LORASHARE, "peer_lorashare.py", LORASHARE_K),
    "vlora": _peer("vlora", VLORA, "peer_vlora.py", VLORA_K),
}


def rivals(adapters: Sequence[Adapter], only: Sequence[str] | None = None) -> Iterator[Rival]:
    """Every rival at every setting, failures included."""
    for name in only or MAKERS:
        yield from MAKERS[name](adapters)


def iter_rivals(
    adapters: Sequence[Adapter], only: Sequence[str] | None = None
) -> Iterator[tuple[str, str, int, Mapping[str, FactorsByModule]]]:
    """(name, setting, bytes, task -> module -> (B with scale, A)); no factors where it failed."""
    for rival in rivals(adapters, only):
        yield rival.name, rival.setting, rival.bytes, rival.factors


def iter_peers(adapters: Sequence[Adapter]) -> Iterator[Rival]:
    """The packages alone, at every k, failures included."""
    return rivals(adapters, ("lorashare", "vlora"))


def _save(rival: Rival, folder: Path) -> None:
    place = folder / rival.name / rival.setting.replace(" ", "_").replace("%", "pct")
    place.mkdir(parents=True, exist_ok=True)
    for task, modules in rival.factors.items():
        tensors = {}
        for path, (b, a) in modules.items():
            tensors[f"{path}.B"] = np.ascontiguousarray(b)
            tensors[f"{path}.A"] = np.ascontiguousarray(a)
        save_file(tensors, str(place / f"{task}.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(MAKERS))
    parser.add_argument("--name", default="rivals")
    args = parser.parse_args()
    adapters = read_adapters(args.adapters)
    fp16 = 2 * sum(adapter.numbers for adapter in adapters)
    head = provenance("bytes on disk and relative error of other methods", seed=None)
    head["versions"] |= dict(requirement.split("==") for requirement in (LORASHARE, VLORA))
    rows = []
    for rival in rivals(adapters, args.only.split(",")):
        row = {"method": rival.name, "setting": rival.setting, "bytes": rival.bytes}
        if rival.failed:
            row["failed"] = rival.failed
            print(f"{rival.name:10} {rival.setting:24} failed: {rival.failed}", flush=True)
        else:
            errors = relative_errors(tasks_of(adapters), rival.factors)
            mean = float(np.mean(list(errors.values())))
            row |= {"size_pct": round(100 * rival.bytes / fp16, 3), "mean_error": round(mean, 6)}
            row["errors"] = {task: round(value, 6) for task, value in errors.items()}
            if rival.seconds is not None:
                row["seconds"] = round(rival.seconds, 2)
            if args.out:
                _save(rival, args.out)
            print(
                f"{rival.name:10} {rival.setting:24} {row['size_pct']:8.3f} % error {mean:.4f}",
                flush=True,
            )
        rows.append(row)
    print(write_result(args.name, head | {"fp16_bytes": fp16}, rows))


if __name__ == "__main__":
    main()
