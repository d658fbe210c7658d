"""Serve many clients and check every answer, the memory, and the end of the process.

    python -m benchmarks.speed serve_load --out benchmarks/results/speed/serve-load.json

Starts ``hydraopt serve`` on the examples (SmolLM2-135M-Instruct, eight rank-8 adapters), or on
--base and --bundle. Every client asks one prompt of one task after the other, all tasks and lengths
mixed, and each answer is held against what plain greedy generation writes with that task alone,
computed before, in float32. What differs is told apart: an answer that is another task's to the
same prompt ("wrong task"); one that hung, somewhere, by less than TIE between the two likeliest
tokens, which company in a batch may decide ("tie"); anything else ("unexplained"). Requests that
are wrong in different ways go along with the load. SIGTERM comes while requests are under way.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, provenance, write_result
from benchmarks.speed.footprint import resident_bytes
from benchmarks.speed.refusals import BAD, post, problem_of
from hydraopt import attach, merge
from hydraopt.basemodel.logits import contiguous_head
from hydraopt.basemodel.model import load_model
from hydraopt.harm.prompts import read_prompts
from hydraopt.serve.server import base_name_of
from zoo.bases import base_folder

TIE = 0.01
"""Difference of two logits in float32 that other shapes of the same products may turn round."""
EXIT_SECONDS = 60
MIB = 1 << 20

Row = dict[str, Any]
Asked = tuple[str, int]
"""A model's name, and the index of a prompt."""


@dataclass(frozen=True)
class Prompt:
    """text: of the request.  most: tokens of its answer at most."""

    text: str
    most: int


@dataclass(frozen=True)
class Offline:
    """An answer written alone. gap: the least difference between its two likeliest tokens."""

    text: str
    gap: float


def prompts_of(count: int, tokens: int) -> list[Prompt]:
    """Return held-out prompts of the examples, of all tasks in turn; answers of unlike lengths."""
    files = sorted((ROOT / "examples" / "prompts").glob("*.jsonl"))
    held_out = [read_prompts(file) for file in files]
    texts = [mine[i % len(mine)] for i, mine in zip(range(count), itertools.cycle(held_out))]
    return [Prompt(x, 2 + 7 * i % tokens) for i, x in enumerate(texts)]


def answered_alone(
    model: Any, tokenizer: Any, bundle: Path, base_name: str, prompts: Sequence[Prompt]
) -> dict[Asked, Offline]:
    """Return what each task, and the base, writes to each prompt; one at a time."""
    found = {}
    with attach(model, bundle) as attached, contiguous_head(model), torch.inference_mode():
        for name in (base_name, *attached.tasks):
            with attached.task(None if name == base_name else name):
                for i, prompt in enumerate(prompts):
                    found[name, i] = _written(model, tokenizer, prompt)
    return found


def _written(model: Any, tokenizer: Any, prompt: Prompt) -> Offline:
    ids = torch.tensor([tokenizer(prompt.text)["input_ids"]])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=prompt.most,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(out.scores).topk(2).values
    text = tokenizer.decode(
        out.sequences[0, ids.shape[1] :],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return Offline(text, float((best[:, 0] - best[:, 1]).min()))


def kind_of(asked: Asked, text: str, alone: Mapping[Asked, Offline]) -> str:
    """Return what an answer is: "right", "wrong_task", "tie" or "unexplained"."""
    own = alone[asked]
    if text == own.text:
        return "right"
    others = {x.text for (_, prompt), x in alone.items() if prompt == asked[1]}
    if text in others:
        return "wrong_task"
    return "tie" if own.gap < TIE else "unexplained"


@dataclass
class Tally:
    """What all clients have seen; each adds its own under the lock."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    examples: list[Row] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    odd: list[Row] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Load:
    """What the clients share. stop: no new request is begun."""

    address: str
    prompts: Sequence[Prompt]
    alone: Mapping[Asked, Offline]
    tally: Tally
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, seed: int) -> None:
        """Ask as one client: requests drawn at random, one after the other."""
        draw, each = random.Random(seed), list(self.alone)
        while not self.stop.is_set():
            asked = draw.choice(each)
            prompt = self.prompts[asked[1]]
            body = {"model": asked[0], "prompt": prompt.text, "max_tokens": prompt.most}
            started = time.perf_counter()
            status, reply = post(self.address, {**body, "temperature": 0})
            seconds = time.perf_counter() - started
            text = reply["choices"][0]["text"] if status == 200 else ""
            kind = kind_of(asked, text, self.alone) if status == 200 else "failed"
            with self.tally.lock:
                self.tally.kinds[kind] += 1
                if status == 200:
                    self.tally.seconds.append(seconds)
                    self.tally.tokens += reply["usage"]["completion_tokens"]
                if kind != "right" and len(self.tally.examples) < 20:
                    right = self.alone[asked]
                    row = {"kind": kind, "asked": asked, "expected": right.text, "gap": right.gap}
                    self.tally.examples.append({**row, "got": text or reply, "status": status})

    def ask_badly(self) -> None:
        """Send requests that have to be refused, in turn, a few a second."""
        for bad in itertools.cycle(BAD):
            if self.stop.wait(0.2):
                return
            problem = problem_of(self.address, bad, model=next(iter(self.alone))[0])
            with self.tally.lock:
                self.tally.bad[bad.name] += 1
                if problem is not None:
                    self.tally.odd.append({"name": bad.name, "problem": problem})

    def watch(self, process: int, started: float) -> None:
        """Record the server's resident memory, twice a second."""
        while not self.stop.wait(0.5):
            held = resident_bytes(process)
            if held is not None:
                self.tally.memory.append((time.perf_counter() - started, held))


def slope(samples: Sequence[tuple[float, int]], after: float) -> Row:
    """Fit the growth of memory by least squares to samples (seconds, bytes) after a warm-up."""
    late = [x for x in samples if x[0] >= after]
    if len(late) < 2:
        return {"slope_mib_per_minute": None, "samples": len(late)}
    times, held = np.array(late, np.float64).T
    return {
        "slope_mib_per_minute": round(60 * float(np.polyfit(times, held / MIB, 1)[0]), 4),
        "samples": len(late),
        "warm_up_seconds": round(after, 1),
        "first_mib": round(held[0] / MIB, 1),
        "last_mib": round(held[-1] / MIB, 1),
        "most_mib": round(max(x for _, x in samples) / MIB, 1),
    }


def started_server(
    base: Path, bundle: Path, threads: int, errors: Any
) -> tuple[subprocess.Popen[str], Row]:
    """Start the server; return the process, listening, and what it said of itself."""
    code = "from hydraopt.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(base), str(bundle), "--port", "0", "--json"]
    command += ["--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        lines.append(process.stdout.readline())
        if not lines[-1]:
            raise SystemExit(f"the server did not start; exit code {process.wait()}")
    about = json.loads("".join(lines))
    while post(about["address"], {}, path="/models")[0] == 0:  # it listens a moment later
        time.sleep(0.05)
    return process, about


def run(process: subprocess.Popen[str], load: Load, args: argparse.Namespace) -> Row:
    """Keep up the load for so long, and then end the server."""
    started = time.perf_counter()
    clients = [
        threading.Thread(target=load.ask, args=(seed,), daemon=True) for seed in range(args.clients)
    ]
    others = [
        threading.Thread(target=load.ask_badly, daemon=True),
        threading.Thread(target=load.watch, args=(process.pid, started), daemon=True),
    ]
    for thread in (*clients, *others):
        thread.start()
    load.stop.wait(args.seconds)
    load.stop.set()
    for thread in others:
        thread.join()
    # A request that was begun just before is read by now; the clients wait for their answers.
    time.sleep(1)
    under_way = sum(thread.is_alive() for thread in clients)
    asked = time.perf_counter()
    os.kill(process.pid, signal.SIGTERM)
    try:
        code: int | None = process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    ended = time.perf_counter()
    for thread in clients:
        thread.join(10)
    return {
        "what": "exit",
        "under_way": under_way,
        "exit_code": code,
        "exit_seconds": round(ended - asked, 2),
        "limit_seconds": EXIT_SECONDS,
        "wall": ended - started,
    }


def rows_of(load: Load, end: Row, errors: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of the result."""
    tally, wall = load.tally, end.pop("wall")
    kinds = ("right", "wrong_task", "tie", "unexplained", "failed")
    texts: dict[int, set[str]] = {}
    for (_, prompt), x in load.alone.items():
        texts.setdefault(prompt, set()).add(x.text)
    quantiles = (50, 90, 99, 100)
    latency = np.percentile(tally.seconds, quantiles) if tally.seconds else [None] * 4
    clean = end["exit_code"] == 0 and "Traceback" not in errors
    rows: list[Row] = [
        {
            "what": "answers",
            "requests": tally.kinds.total(),
            **{kind: tally.kinds[kind] for kind in kinds},
            "models": len({name for name, _ in load.alone}),
            "prompts": len(load.prompts),
            # Of all pairs of model and prompt; what two tasks say alike shows no mistake.
            "distinct_answers": sum(map(len, texts.values())) / len(load.alone),
            "examples": tally.examples,
        },
        {
            "what": "bad requests",
            "requests": tally.bad.total(),
            "kinds": len(tally.bad),
            "odd": len(tally.odd),
            "examples": tally.odd[:20],
        },
        {"what": "memory", **slope(tally.memory, min(60.0, args.seconds / 4))},
        {
            "what": "speed",
            "requests_per_second": round(len(tally.seconds) / wall, 2),
            "tokens_per_second": round(tally.tokens / wall, 2),
            **{
                f"p{q}_seconds": None if x is None else round(float(x), 3)
                for q, x in zip(quantiles, latency, strict=True)
            },
        },
        {**end, "unclean": int(not clean), "stderr": errors[-2000:]},
    ]
    return [{**row, "seconds": args.seconds, "clients": args.clients} for row in rows]


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--base", type=Path, help="model folder; default the examples' base")
    parser.add_argument("--bundle", type=Path, help="default the examples, merged to 5 %%")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=6, help="asked of every task and the base")
    parser.add_argument("--tokens", type=int, default=20, help="of an answer, about, at most")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--out", type=Path, help="result file; default none is written")
    args = parser.parse_args(arguments)
    # Whoever ends this run ends its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    head = provenance("a server under a mixed load, every answer checked", seed=0)
    base = args.base or base_folder("smollm2-135m-instruct")
    prompts = prompts_of(args.prompts, args.tokens)
    with tempfile.TemporaryDirectory() as place:
        bundle = args.bundle
        if bundle is None:
            bundle = Path(place) / "examples.hydra.safetensors"
            merge(ROOT / "examples" / "adapters" / "*", bundle, size="5%")
        torch.set_num_threads(args.threads)
        say("answers of each task alone")
        model, tokenizer = load_model(str(base))
        alone = answered_alone(
            model, tokenizer, bundle, base_name_of(str(base), [str(bundle)]), prompts
        )
        del model
        say(f"{len(alone)} answers; the server starts")
        with (Path(place) / "stderr").open("w+") as errors:
            process, about = started_server(base, bundle, args.threads, errors)
            try:
                say(f"{args.clients} clients for {args.seconds:g} s")
                load = Load(about["address"], prompts, alone, Tally())
                end = run(process, load, args)
            finally:
                process.kill()
                process.communicate()  # closes its output as well
            errors.seek(0)
            rows = rows_of(load, end, errors.read(), args)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    if args.out is not None:
        print(write_result(args.out.parent, args.out.stem, head, rows))
