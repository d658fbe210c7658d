"""Measure the main figures of speed: merging, its growth, opening, mixed batches and a refit.

    python -m benchmarks.speed figures [ADAPTERS ...] [--base BASE --prompts FOLDER] [--out FILE]

Prints a row for each figure. Merges are warm, the least of --repeats; everything that needs a clean
process has its own. Without --base, mixed batches and the refit are left out. "growth" merges
synthetic adapters of four square modules, and states the power of the number of adapters or of the
width that the seconds grow with.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, local_folder, provenance, save_json
from benchmarks.speed.synthetic import square_modules, write_adapters
from hydraopt import merge, open_bundle, read_adapters
from hydraopt.adapters import Adapter

_EXAMPLES = ROOT / "examples" / "adapters" / "*"
_TASKS, _WIDTHS = (8, 16, 32, 64), (512, 1024, 2048)
_MODULES, _RANK = 4, 16
_ROWS, _PROMPT, _TOKENS = 16, 24, 32
_MERGE = """
import json, pathlib, sys
from hydraopt import merge
import hydraopt.merging.pipeline
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
before = peak()
merge(sys.argv[3:], sys.argv[1], size=sys.argv[2])
print(json.dumps({"kib": peak() - before}))
"""
_OPEN = """
import json, sys, time
import numpy
started = time.perf_counter()
from hydraopt import open_bundle
bundle = open_bundle(sys.argv[1])
task = bundle[next(iter(bundle))]
task.factors()
print(json.dumps({"seconds": time.perf_counter() - started, "numbers": task.entry.numbers}))
"""

Row = dict[str, Any]


def least(run: Callable[[], Any], repeats: int) -> float:
    """Return the fewest seconds of some runs, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def in_process(code: str, *arguments: object) -> Row:
    """Run code in a process of its own, and return the JSON that it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    found: Row = json.loads(done.stdout)
    return found


def merging(adapters: Sequence[Adapter], size: str, repeats: int, bundle: Path) -> Row:
    """Return seconds and memory of a merge; the bundle stays."""
    seconds = least(lambda: merge(adapters, bundle, size=size), repeats)
    peak = in_process(_MERGE, bundle, size, *map(local_folder, adapters))["kib"] / 1024
    numbers = sum(x.numbers for x in adapters)
    return {
        "what": "merge",
        "adapters": len(adapters),
        "numbers": numbers,
        "seconds": round(seconds, 3),
        "ns_a_number": round(1e9 * seconds / numbers, 1),
        "peak_mib_above_imports": round(peak, 1),
    }


def opening(bundle: Path, repeats: int) -> Row:
    """Return milliseconds until a task is decoded: in a new process, and in this one."""
    fresh = [in_process(_OPEN, bundle) for _ in range(repeats)]

    def once() -> None:
        found = open_bundle(bundle)
        found[next(iter(found))].factors()

    warm = least(once, repeats)
    return {
        "what": "open a bundle and decode a task",
        "new_process_ms": round(1e3 * min(x["seconds"] for x in fresh), 1),
        "ms": round(1e3 * warm, 2),
        "million_numbers_a_second": round(fresh[0]["numbers"] / warm / 1e6, 1),
    }


def power(points: Sequence[tuple[float, float]]) -> float:
    """Return p of the least-squares line log y = p log x + c through points (x, y)."""
    x, y = np.log(np.array(points, np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def growth(work: Path, size: str, repeats: int) -> Iterator[Row]:
    """Yield seconds by the number of adapters and by the width, and the powers of both."""
    target = work / "synthetic.hydra.safetensors"

    def seconds(folders: Sequence[Path]) -> float:
        return least(lambda: merge([str(x) for x in folders], target, size=size), repeats)

    most = write_adapters(work / "tasks", square_modules(1024, _MODULES), max(_TASKS), _RANK, 1)
    by_tasks = [(count, seconds(most[:count])) for count in _TASKS]
    by_width = []
    for width in _WIDTHS:
        shapes = square_modules(width, _MODULES)
        made = write_adapters(work / f"width-{width}", shapes, _TASKS[0], _RANK, width)
        by_width.append((width, seconds(made)))
    for axis, points in (("adapters", by_tasks), ("width", by_width)):
        times = {f"{x}": round(y, 3) for x, y in points}
        yield {"what": f"growth with {axis}", "seconds": times, "power": round(power(points), 2)}


def alternated(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return median seconds of each run, in turn, so that other load hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(least(run, 1))
    return {name: median(times) for name, times in found.items()}


def batches(model: Any, bundle: Path, work: Path, repeats: int) -> Iterator[Row]:
    """Yield rates of a mixed batch and of one task, as ratios to PEFT's, and of switches."""
    import torch
    from peft import PeftModel

    from hydraopt import attach

    peft: Any = None
    for name, task in open_bundle(bundle).items():
        task.save_pretrained(work / name)
        if peft is None:
            peft = PeftModel.from_pretrained(copy.deepcopy(model), work / name, name).eval()
        else:
            peft.load_adapter(work / name, name)
    ids = torch.randint(5, 5000, (_ROWS, _PROMPT), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def write(of: Any, **more: Any) -> None:
        settings = {"min_new_tokens": _TOKENS, "max_new_tokens": _TOKENS, "do_sample": False}
        mask = torch.ones_like(ids)
        of.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **settings, **more)

    with attach(model, bundle) as attached:
        names = list(attached.tasks)
        each = [names[i % len(names)] for i in range(_ROWS)]
        attached.set_tasks(each)
        mixed = {"ours": partial(write, model), "peft": partial(write, peft, adapter_names=each)}
        yield _ratio("mixed batch", alternated(mixed, repeats))
        attached.set_task(names[0])
        peft.set_adapter(names[0])
        yield _ratio(
            "one task", alternated({"ours": mixed["ours"], "peft": partial(write, peft)}, repeats)
        )
    with attach(model, bundle) as attached:
        cold: list[float] = []
        warm: list[float] = []
        for switches in (cold, warm):
            for name in attached.tasks:
                attached.set_task(name)
                switches.append(1e3 * attached.stats.switch_seconds)
        yield {
            "what": "switch",
            "cold_ms": round(median(cold), 2),
            "warm_ms": round(median(warm), 3),
        }


def _ratio(what: str, seconds: Mapping[str, float]) -> Row:
    rates = {
        f"{name}_tokens_a_second": round(_ROWS * _TOKENS / x, 1) for name, x in seconds.items()
    }
    return {"what": what, **rates, "of_peft": round(seconds["peft"] / seconds["ours"], 3)}


def refit(adapter: Adapter, prompts: Sequence[str], base: str, loaded: Any, work: Path) -> Row:
    """Return the seconds that training one task's parts adds to its merge at 3 %."""
    from hydraopt.model import AnswerJudge

    look = AnswerJudge(base, [adapter], {adapter.name: prompts}, refits=True, loaded=loaded).look
    target = work / "refit.hydra.safetensors"
    started = time.perf_counter()
    merge([adapter], target, size="3%", look=look)
    return {
        "what": "refit of a task",
        "task": adapter.name,
        "prompts": len(prompts),
        "seconds": round(time.perf_counter() - started, 1),
    }


def figures(args: Any) -> Iterator[Row]:
    """Yield the rows."""
    adapters = read_adapters(args.adapters or _EXAMPLES)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        bundle = work / "merged.hydra.safetensors"
        yield merging(adapters, args.size, args.repeats, bundle)
        yield opening(bundle, args.repeats)
        yield from growth(work, args.size, args.repeats)
        if args.base:
            from hydraopt.model import load_model

            loaded = load_model(args.base)
            yield from batches(loaded[0], bundle, work, args.repeats)
            if args.prompts:
                from hydraopt.model import read_prompts

                first = adapters[0]
                prompts = read_prompts(args.prompts / f"{first.name}.jsonl")
                yield refit(first, prompts, args.base, loaded, work)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="*", help="PEFT folders; default examples/adapters")
    parser.add_argument("--size", default="5%")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base", help="folder of the base model, or its name on the hub")
    parser.add_argument("--prompts", type=Path, help="folder with a file of prompts for each task")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    head, rows = provenance("speed", seed=1), []
    for row in figures(args):
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    if args.out:
        save_json(args.out, {**head, "rows": rows})
