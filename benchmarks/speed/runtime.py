"""Compare the runtime with PEFT: mixed batches, one task, memory, and switching, as ratios.

    python -m benchmarks.speed runtime SET [--size 5%] [--repeats 5] [--tokens 32] [--threads 1]

SET: "examples" (SmolLM2-135M, eight rank-8 adapters on q and v), "gemma" (Gemma-3-270M, 40 rank-8
adapters on q, k, v, o) or "smollm2" (SmolLM2-135M, rank 16 on all linear layers: those of the
recipe smollm2-en10 that are trained; where they are fewer than ten, copies of them fill up, inputs
and outputs permuted: as dear to code, nothing to share. The result says how many are copies).
Ours and PEFT's runs alternate in one process, and medians are compared, so that whatever else the
machine does hits both. A pass is a prompt and then one token at a time, with the cache.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, write_result
from benchmarks.speed.footprint import forget
from hydraopt import attach, merge, open_bundle
from hydraopt.basemodel.model import load_model
from zoo.bases import base_folder

SETS = {
    "examples": ("smollm2-135m-instruct", ROOT / "examples" / "adapters"),
    "gemma": ("gemma-3-270m", ROOT / "zoo" / "adapters" / "gemma3-5x8"),
    "smollm2": ("smollm2-135m-instruct", ROOT / "zoo" / "adapters" / "smollm2-en10"),
}
ROWS, TASKS, PROMPT = 16, 8, 24
LEAST = {"smollm2": 10}
"""Adapters that a set has at least."""
MIB = 1 << 20

Row = dict[str, Any]


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds of a run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternated(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return median seconds of each, after one run that does not count."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        order = list(runs.items())
        for name, run in order if i % 2 else reversed(order):
            found[name].append(timed(run))
    return {name: median(times) for name, times in found.items()}


@torch.inference_mode()
def write(model: Any, ids: torch.Tensor, tokens: int, **more: Any) -> None:
    """Read the prompts (rows, length), and write so many tokens, whatever they are."""
    settings = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
    mask = torch.ones_like(ids)
    model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **settings, **more)


def throughput(attached: Any, ours: Any, peft: Any, ids: torch.Tensor, args: Any) -> list[Row]:
    """Measure rows over eight tasks at a time, and one task for all rows."""
    names = list(peft.peft_config)[:TASKS]
    each = [names[i % len(names)] for i in range(len(ids))]
    rows = []
    attached.set_tasks(each)

    def base() -> None:
        attached.disable()
        write(ours, ids, args.tokens)
        attached.enable()

    runs = {
        "ours": lambda: write(ours, ids, args.tokens),
        "peft": lambda: write(peft, ids, args.tokens, adapter_names=each),
        "base": base,
    }
    rows.append({"what": "mixed", "rows": len(ids), "tasks": len(names)} | both(runs, args))
    attached.set_task(names[0])
    peft.set_adapter(names[0])
    for count in (1, len(ids)):
        runs = {
            "ours": partial(write, ours, ids[:count], args.tokens),
            "peft": partial(write, peft, ids[:count], args.tokens),
        }
        rows.append({"what": "one task", "rows": count} | both(runs, args))
    return rows


def both(runs: Mapping[str, Callable[[], Any]], args: Any) -> Row:
    """Return median seconds, and the ratio.

    The base alone says what no adapters at all would reach.
    """
    seconds = alternated(runs, args.repeats)
    row: Row = {
        "tokens": args.tokens,
        **{f"{name}_seconds": round(x, 4) for name, x in seconds.items()},
        "throughput_ratio": round(seconds["peft"] / seconds["ours"], 3),
    }
    if "base" in seconds:
        row["ratio_of_the_base"] = round(seconds["peft"] / seconds["base"], 3)
    return row


def memory(attached: Any, peft: Any, originals: Any) -> Row:
    """Return the bytes of what each holds beside the base, once every task has been used.

    peft: with the adapters as the bundle gives them back, some parts of which are gone; originals:
    with those that were merged, which is what loading adapters takes without a bundle.
    """
    for name in attached.tasks:
        attached.set_task(name)
    found = attached.memory()
    ours = found.shared + found.cached + found.active
    theirs = adapter_bytes(originals)
    return {
        "what": "memory",
        "tasks": len(attached.tasks),
        "ours_bytes": ours,
        "shared_bytes": found.shared,
        "cache_limit": found.limit,
        "peft_bytes": theirs,
        "ratio": round(ours / theirs, 4),
        "peft_exported_bytes": adapter_bytes(peft),
        "ratio_exported": round(ours / adapter_bytes(peft), 4),
    }


def adapter_bytes(peft: Any) -> int:
    """Return the bytes of the LoRA factors on a PEFT model."""
    return sum(x.numel() * x.element_size() for k, x in peft.named_parameters() if "lora_" in k)


def permuted(adapter: Path, folder: Path, seed: int) -> Path:
    """Write a copy of an adapter with inputs and outputs of every module in another order."""
    rng = np.random.default_rng(seed)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for key, x in tensors.items():
        dim = 0 if "lora_B" in key else 1
        order = torch.from_numpy(rng.permutation(x.shape[dim]))
        tensors[key] = x.index_select(dim, order).contiguous()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    shutil.copy(adapter / "adapter_config.json", folder)
    return folder


def adapters_of(name: str, most: int, place: Path) -> tuple[list[Path], int]:
    """Return the set's adapters, and how many of them are copies."""
    _, folder = SETS[name]
    found = sorted(x.parent for x in folder.glob("*/adapter_config.json"))[:most]
    if not found:
        raise SystemExit(f"no adapters in {folder}; train them, see zoo/README.md")
    trained = len(found)
    copies = min(LEAST.get(name, 0), most) - trained
    for seed in range(copies):
        original = found[seed % trained]
        found.append(permuted(original, place / "copies" / f"{original.name}-{seed}", seed))
    return found, max(copies, 0)


def loaded(model: Any, folders: Mapping[str, Path]) -> Any:
    """Return a copy of the model with all of these adapters, by name."""
    wrapped: Any = None
    for name, folder in folders.items():
        if wrapped is None:
            wrapped = PeftModel.from_pretrained(copy.deepcopy(model), folder, name)
        else:
            wrapped.load_adapter(folder, name)
    return wrapped.eval()


def switching(model: Any, path: Path, repeats: int) -> Row:
    """Return milliseconds and bytes read of cold and of warm switches.

    Cold: nothing of the task decoded, the file not in memory. Warm: used before; bytes_read_warm is
    of all these switches together.
    """
    cold, warm, read = [], [], []
    with attach(model, path) as attached:
        attached.set_task(attached.tasks[0])  # compiled code is loaded
        for name in attached.tasks[1:]:
            forget(path)
            before = attached.stats.bytes_read
            attached.set_task(name)
            cold.append(attached.stats.switch_seconds)
            read.append(attached.stats.bytes_read - before)
        before = attached.stats.bytes_read
        for _ in range(repeats):
            for name in attached.tasks[:2]:
                attached.set_task(name)
                warm.append(attached.stats.switch_seconds)
        read_warm = attached.stats.bytes_read - before
    return {
        "what": "switch",
        "cold_ms": round(1e3 * median(cold), 3),
        "cold_worst_ms": round(1e3 * max(cold), 3),
        "warm_ms": round(1e3 * median(warm), 3),
        "bytes_read": round(median(read)),
        "bytes_read_warm": read_warm,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--size", default="5%")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--most", type=int, default=40, help="adapters at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="of the result; default runtime-SET")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    head = provenance("the runtime against PEFT on one machine, in one process", seed=0)
    base, _ = SETS[args.set]
    model, _ = load_model(str(base_folder(base)))
    ids = torch.randint(5, 5000, (args.rows, PROMPT), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as place:
        adapters, copies = adapters_of(args.set, args.most, Path(place))
        path = Path(place) / "merged.hydra.safetensors"
        merge([str(x) for x in adapters], path, size=args.size)
        # PEFT gets what the bundle gives, so that both compute the same.
        bundle = open_bundle(path)
        exported = {name: Path(place) / name for name in bundle}
        for name, where in exported.items():
            bundle[name].save_pretrained(where)
        wrapped = loaded(model, exported)
        with attach(model, path) as attached:
            rows = throughput(attached, model, wrapped, ids, args)
            rows.append(memory(attached, wrapped, loaded(model, {x.name: x for x in adapters})))
        rows.append(switching(model, path, args.repeats))
        rows[-1]["bundle_bytes"] = path.stat().st_size
    for row in rows:
        row |= {"set": args.set, "base": base, "size": args.size, "threads": args.threads}
        row["copies"] = copies
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    print(write_result(SPEED, args.name or f"runtime-{args.set}", head, rows).name)
