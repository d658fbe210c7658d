"""Damaged bundles and adapters: each gives the right content or a HydraoptError.

    python -m benchmarks.hostile fuzz --count 5000 --seed 0 --json FILE

Every case is a sound file with one mutation (mutate.py). A worker process opens and reads all of
it: a bundle's manifest, bases, every task's factors and carried tensors, and its export as PEFT
tensors; an adapter's every tensor and factor. The outcome is

    same      what was read is what the sound file holds (the damage was in what nobody reads);
    other     something else was read without an error: right only where the mutation also forged
              the checksums, or where the format has none (adapters); a failure otherwise;
    refused   a HydraoptError;
    FAILED    any other exception, a dead worker, more than --seconds, or more than --megabytes.

Exit code 1 if anything failed; the failing files are kept in --keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing as mp
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.hostile import mutate, samples

FORGED = {"forge_manifest", "forge_shape", "forge_stream", "swap_streams", "bomb"}
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")


def content_of_bundle(path: Path) -> str:
    """A digest of everything that a reader of the bundle can get."""
    from hydraopt import open_bundle
    from hydraopt.errors import ExportError, NumericalError
    from hydraopt.export import peft_adapter

    digest = hashlib.sha256()
    bundle = open_bundle(path)
    for name, task in bundle.items():
        digest.update(repr((name, task.error, task.config)).encode("utf-8", "replace"))
        for module, factors in task.factors().items():
            digest.update(module.encode("utf-8", "replace") + factors.B.tobytes())
            digest.update(factors.A.tobytes())
        for key, tensor in task.carried.items():
            digest.update(repr((key, tensor.dtype, tensor.shape)).encode("utf-8", "replace"))
            digest.update(tensor.raw())
        try:
            peft_adapter(task)
        except (ExportError, NumericalError) as error:
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def content_of_adapter(path: Path) -> str:
    """A digest of everything that a reader of the adapter can get."""
    from hydraopt import read_adapter

    digest = hashlib.sha256()
    adapter = read_adapter(path)
    digest.update(repr(adapter.base_model).encode("utf-8", "replace"))
    for name, module in adapter.modules.items():
        digest.update(name.encode("utf-8", "replace"))
        for factor in module.factors():
            digest.update(factor.tobytes())
    for key, tensor in adapter.extras.items():
        digest.update(key.encode("utf-8", "replace") + tensor.raw())
    adapter.check_finite()
    digest.update(adapter.content_hash().encode())
    return digest.hexdigest()


def read(kind: str, path: Path) -> str:
    return content_of_bundle(path) if kind == "bundle" else content_of_adapter(path)


def peak_mb() -> float:
    """Peak resident memory of this process since it was last reset, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> None:
    # Where it cannot be reset, the peak is that of all cases so far: stricter still.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def work(pipe: Connection, warm: list[tuple[str, str]], megabytes: int) -> None:
    """Answer each (kind, path) with (outcome, detail, peak increase in MB, seconds)."""
    from hydraopt.errors import HydraoptError

    for kind, path in warm:
        read(kind, Path(path))  # loads and compiles everything, so that it counts for no case
    # A second line of defence: what tries to allocate far beyond the limit fails at once.
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (room + 4 * megabytes * 2**20, resource.RLIM_INFINITY))
    pipe.send("ready")
    while True:
        kind, path = pipe.recv()
        reset_peak()
        before, started = peak_mb(), time.monotonic()
        try:
            outcome, detail = "read", read(kind, Path(path))
        except HydraoptError as error:
            outcome, detail = "refused", type(error).__name__
            if not str(error).strip():
                outcome, detail = "FAILED", f"{detail} without a message"
        except BaseException as error:  # what a user would see as a crash
            outcome, detail = "FAILED", f"{type(error).__name__}: {error}"[:300]
        pipe.send((outcome, detail, peak_mb() - before, time.monotonic() - started))


class Worker:
    """A process that reads files for us and may die of it."""

    def __init__(self, warm: list[tuple[str, str]], megabytes: int) -> None:
        context = mp.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, warm, megabytes), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()

    def read(self, kind: str, path: Path, seconds: float) -> tuple[str, str, float, float]:
        self._pipe.send((kind, str(path)))
        if not self._pipe.poll(seconds):
            self.stop()
            return "FAILED", f"no answer in {seconds:g} s", 0.0, seconds
        try:
            return self._pipe.recv()
        except EOFError:
            self.stop()
            return "FAILED", f"the process died, exit code {self._process.exitcode}", 0.0, 0.0

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def make_case(source: Path, kind: str, rng: random.Random, target: Path) -> tuple[str, Path]:
    """A damaged copy of ``source``; returns the mutation's name and what to open."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
        files = {name: (source / name).read_bytes() for name in PEFT_FILES}
        if rng.random() < 0.3:
            name = "damage_config"
            files[PEFT_FILES[1]] = mutate.damage_config(files[PEFT_FILES[1]], rng)
        else:
            name = rng.choice(list(mutate.ANY))
            files[PEFT_FILES[0]] = mutate.ANY[name](files[PEFT_FILES[0]], rng)
        for file, data in files.items():
            (target / file).write_bytes(data)
        return name, target
    mutations = mutate.BUNDLE if kind == "bundle" else mutate.ANY
    name = rng.choice(list(mutations))
    path = target.with_suffix(".safetensors")
    path.write_bytes(mutations[name](source.read_bytes(), rng))
    return name, path


def fuzz(
    count: int, seed: int, seconds: float = 20.0, megabytes: int = 1000, keep: Path | None = None
) -> dict[str, Any]:
    """Run ``count`` cases; the result as for JSON."""
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    by_mutation: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    largest = slowest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapters, bundles = samples.write_samples(folder / "samples")
        sources = [("bundle", path) for path in bundles] * 3 + [("adapter", x) for x in adapters]
        sound = {str(path): read(kind, path) for kind, path in sources}
        warm = [(kind, str(path)) for kind, path in sources]
        worker = Worker(warm, megabytes)
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            kind, source = rng.choice(sources)
            name, path = make_case(source, kind, rng, folder / "case")
            if not worker.alive:
                worker = Worker(warm, megabytes)
            outcome, detail, peak, took = worker.read(kind, path, seconds)
            largest, slowest = max(largest, peak), max(slowest, took)
            if outcome == "refused":
                errors[detail] += 1
            elif outcome == "read":
                outcome = "same" if detail == sound[str(source)] else "other"
                if outcome == "other" and kind == "bundle" and name not in FORGED:
                    outcome, detail = "FAILED", "wrong content without an error"
            if peak > megabytes:
                outcome, detail = "FAILED", f"{peak:.0f} MB"
            outcomes[outcome] += 1
            by_mutation.setdefault(f"{kind}: {name}", Counter())[outcome] += 1
            if outcome == "FAILED":
                failures.append(
                    {"case": number, "file": source.name, "mutation": name, "what": detail}
                )
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.move(path, keep / f"{seed}-{number}-{name}{path.suffix}")
            if path.is_file():
                path.unlink(missing_ok=True)
        worker.stop()
    return {
        "schema": "hydraopt.hostile/1",
        "command": f"python -m benchmarks.hostile fuzz --count {count} --seed {seed}",
        "count": count,
        "seed": seed,
        "limits": {"seconds": seconds, "megabytes": megabytes},
        "outcomes": dict(sorted(outcomes.items())),
        "errors": dict(errors.most_common()),
        "by_mutation": {key: dict(sorted(x.items())) for key, x in sorted(by_mutation.items())},
        "failures": failures[:50],
        "largest_peak_increase_mb": round(largest, 1),
        "slowest_case_s": round(slowest, 3),
        "seconds": round(time.monotonic() - started, 1),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Versions and hardware, for a result file."""
    names = ("hydraopt", "numpy", "numba", "safetensors", "zstandard")
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "versions": {"python": platform.python_version(), **{x: version(x) for x in names}},
        "hardware": {"cpu": model, "cores": len(os.sched_getaffinity(0))},
        "date": time.strftime("%Y-%m-%d"),
    }


def write_result(result: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if path is None:
        print(text, end="")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit for a case")
    parser.add_argument("--megabytes", type=int, default=1000, help="limit for a case")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--keep", type=Path, help="folder for files that failed")
    options = parser.parse_args(arguments)
    result = fuzz(options.count, options.seed, options.seconds, options.megabytes, options.keep)
    write_result(result, options.json)
    print(result["outcomes"], *result["failures"], sep="\n", file=sys.stderr)
    return 1 if result["failures"] else 0
