"""Run every command on damaged bundles and adapters: it must refuse them or restore the contents.

    python -m benchmarks.hostile fuzz --adapters 2000 --bundles 1000 --seed 0 --json FILE

Every case is a sound file with one mutation (mutate.py, configs.py, weights.py, forge.py). A worker
under a limit of memory and time reads all of it. Of an adapter it makes a bundle, verifies it, and
exports it in the adapter's own format or as PEFT; what is merged without loss has to come back bit
for bit. A bundle it verifies, inspects, exports and sometimes shrinks. The outcome is

    refused    a HydraoptError;
    accepted   all of that went well;
    traceback  any other exception, or a dead worker;
    hang       a command took more of the processor than the bound of docs/reference/format.md,
               --seconds and 30 microseconds a byte, or the case had no answer;
    memory     more than --megabytes and --factor times the bytes of the file;
    broken     merged, and then not verified or not exported; or verified, and then not exported.

Exit code 1 if there is any of the last four; the files of these are kept in --keep.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import provenance, save_json
from benchmarks.hostile import forge, mutate, samples, weights
from benchmarks.hostile.configs import damage_config
from benchmarks.hostile.workers import QUIET, Bound, Case, Worker

CONFIG = "adapter_config.json"
FAILED = ("traceback", "hang", "memory", "broken")
SHOWN = 60


def damage_adapter(source: Path, target: Path, rng: random.Random) -> tuple[str, Path]:
    """Write a damaged copy of ``source`` at ``target``.

    Returns the mutation's name and what to open.
    """
    target.mkdir(parents=True)
    if source.is_file():
        name, data = damaged_weights(source.read_bytes(), rng)
        path = target / source.name
        path.write_bytes(data)
        return name, path
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    config = target / CONFIG
    (file,) = (x for x in target.iterdir() if x.name != CONFIG)
    if config.exists() and rng.random() < 0.4:
        config.write_bytes(damage_config(config.read_bytes(), rng))
        return "config", target
    if file.suffix != ".safetensors" and rng.random() < 0.8:
        write = weights.write_torch if file.suffix == ".bin" else weights.write_npz
        return write(source / file.name, file, rng), target
    container = file.suffix == ".safetensors"
    name, data = damaged_weights(file.read_bytes(), rng, container)
    file.write_bytes(data)
    return name, target


def damaged_weights(data: bytes, rng: random.Random, container: bool = True) -> tuple[str, bytes]:
    """Return the name of a mutation, and the weights that it damaged."""
    if container and rng.random() < 0.65:
        return "tensors", weights.damage_tensors(data, rng)
    names = list(mutate.ANY)
    name = rng.choice(names if container else [x for x in names if x != "lie_in_header"])
    return name, mutate.ANY[name](data, rng)


def damage_bundle(source: Path, target: Path, rng: random.Random) -> tuple[str, Path]:
    """Write a damaged bundle as :func:`damage_adapter`; most mutations forge the checksums."""
    target.mkdir(parents=True)
    forged = [x for x in forge.BUNDLE if x not in mutate.ANY]
    name = rng.choice(forged if rng.random() < 0.75 else list(mutate.ANY))
    path = target / "case.hydra.safetensors"
    path.write_bytes(forge.BUNDLE[name](source.read_bytes(), rng))
    return name, path


def cases(
    folder: Path, adapters: dict[str, Path], bundles: list[Path], counts: tuple[int, int], seed: int
) -> Iterator[Case]:
    """Yield the damaged files of a run, made one by one."""
    kinds = ["adapter"] * counts[0] + ["bundle"] * counts[1]
    random.Random(seed).shuffle(kinds)
    for number, kind in enumerate(kinds):
        rng = random.Random(f"{seed}/{number}")
        sources = list(adapters.values()) if kind == "adapter" else bundles
        source = rng.choice(sources)
        make = damage_adapter if kind == "adapter" else damage_bundle
        name, path = make(source, folder / str(number), rng)
        yield Case(number, kind, name, source.stem, path, f"{seed}/{number}/work")


class Tally:
    """Counts of a run, as for JSON."""

    def __init__(self, keep: Path | None, seed: int) -> None:
        self._keep, self._seed = keep, seed
        self.outcomes: dict[str, Counter[str]] = {"adapter": Counter(), "bundle": Counter()}
        self.failures: list[dict[str, Any]] = []
        self.nameless: Counter[str] = Counter()
        self.largest = 0
        self.slowest = 0.0

    def add(self, case: Case, verdict: Any, peak: int, took: float) -> None:
        self.largest, self.slowest = max(self.largest, peak), max(self.slowest, took)
        self.outcomes[case.kind][verdict.outcome] += 1
        self.nameless.update(verdict.nameless)
        folder = case.path if case.path.name.isdecimal() else case.path.parent
        if verdict.outcome in FAILED:
            about = {"case": case.number, "file": case.sample, "mutation": case.mutation}
            self.failures.append({**about, "outcome": verdict.outcome, "what": verdict.detail})
            if self._keep is not None:
                self._keep.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, self._keep / f"{self._seed}-{case.number}-{verdict.outcome}")
        shutil.rmtree(folder, ignore_errors=True)

    def result(self) -> dict[str, Any]:
        """Return the counts, and the first failures."""
        both = sum(self.outcomes.values(), Counter[str]())
        return {
            "done": sum(both.values()),
            "found": {name: both[name] for name in FAILED},
            "outcomes": {kind: dict(sorted(x.items())) for kind, x in self.outcomes.items()},
            "refusals_without_file_or_remedy": dict(self.nameless.most_common(12)),
            "failures": self.failures[:SHOWN],
            "largest_peak_increase_mb": round(self.largest / 2**20, 1),
            "slowest_case_s": round(self.slowest, 3),
        }


def fuzz(
    counts: tuple[int, int],
    seed: int,
    bound: Bound,
    processes: int,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Run (adapters, bundles) cases, and return the result as for JSON."""
    os.environ.update(QUIET)
    sys.set_int_max_str_digits(0)  # our own mutations write numbers that readers refuse
    tally = Tally(keep, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "samples").mkdir()
        adapters = samples.write_adapters(folder / "samples")
        bundles = samples.write_bundles(folder / "bundles", adapters)
        base = samples.write_base(folder / "base")
        warm = [Case(0, "adapter", "", "", x, "") for x in adapters.values()]
        warm += [Case(0, "bundle", "", "", x, "") for x in bundles]

        def start(i: int) -> Worker:
            return Worker(folder / f"scratch{i}", base, warm, bound)

        workers = [start(i) for i in range(processes)]
        left = cases(folder / "cases", adapters, bundles, counts, seed)
        running = True
        while running or any(x.case for x in workers):
            for i, worker in enumerate(workers):
                if worker.case is not None:
                    answer = worker.answer()
                    if answer is None:
                        continue
                    tally.add(worker.case, *answer)
                    worker.case = None
                if not worker.alive:
                    worker = workers[i] = start(i)
                case = next(left, None)
                running = case is not None
                if case is not None:
                    worker.give(case)
            wait([x.pipe for x in workers if x.case], 0.2)
        for worker in workers:
            worker.stop()
    return tally.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--adapters", type=int, default=400)
    parser.add_argument("--bundles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=Bound.seconds, help="limit of a command")
    parser.add_argument("--megabytes", type=int, default=Bound.constant >> 20)
    parser.add_argument("--factor", type=int, default=Bound.factor)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--keep", type=Path, help="folder for files that failed")
    options = parser.parse_args(arguments)
    bound = Bound(options.megabytes << 20, options.factor, options.seconds)
    counts = (options.adapters, options.bundles)
    head = provenance("damaged files", seed=options.seed)
    result = fuzz(counts, options.seed, bound, options.processes, options.keep)
    if options.json:
        save_json(options.json, {**head, **result})
    print(*(f"{key}: {value}" for key, value in result.items()), sep="\n")
    return 1 if result["failures"] else 0
