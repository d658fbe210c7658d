"""Misuse a server: half requests, too many connections, a bundle that is replaced.

    python -m benchmarks.hostile server --json FILE

Starts ``hydraopt serve`` on a tiny model of random numbers with four tasks, which answers at once,
or on --base and two --bundle files that have the same tasks. While clients ask, the file under the
server is exchanged for the other bundle, deleted, or replaced by one that is cut or is no bundle,
and loaded again by POST /reload or SIGHUP. Each answer is held against what plain greedy generation
writes with that task alone, from a bundle that was in service between the request and its answer.
Then come half bodies, half heads and bytes by drops, and more connections than are taken; at last
SIGTERM, with half bodies open and requests under way. Everything is on this machine's loopback.
Exit code 1 if anything is not as docs/reference/serving.md says.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import socket
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
from urllib.parse import urlsplit

import torch

from benchmarks.commands import parser_of
from benchmarks.common import provenance, write_result
from benchmarks.hostile.tiny import write_tiny
from benchmarks.speed.refusals import post
from benchmarks.speed.serve_load import (
    Asked,
    Offline,
    Prompt,
    answered_alone,
    kind_of,
    prompts_of,
    started_server,
)
from hydraopt.basemodel.model import load_model
from hydraopt.serve.server import base_name_of

CLOSED_WITHIN = 25.0
ENDED_WITHIN = 25.0
TASKS = ("de", "en", "es", "fr")
PAUSE = 3.0
"""Seconds between two exchanges."""

Row = dict[str, Any]
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
BODY = HEAD + b"content-type: application/json\r\ncontent-length: 500\r\n\r\n"


@dataclass
class Service:
    """The server, what its clients see, and which bundle was in service when.

    switches: (asked, done, bundle): from ``asked`` on it may, from ``done`` on it does answer.
    """

    address: str
    pid: int
    file: Path
    prompts: Sequence[Prompt]
    alone: Sequence[Mapping[Asked, Offline]]
    stop: threading.Event = field(default_factory=threading.Event)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    switches: list[tuple[float, float, int]] = field(default_factory=lambda: [(0.0, 0.0, 0)])
    examples: list[Row] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def in_service(self, since: float, until: float) -> set[int]:
        """Return the bundles that may have answered between these two moments."""
        sure = max((x for x in self.switches if x[1] <= since), key=lambda x: x[1])
        return {sure[2], *(x[2] for x in self.switches if x[0] <= until and x[1] > since)}

    def ask(self, seed: int) -> None:
        """Ask as one client: requests drawn at random, one after the other."""
        draw, each = random.Random(seed), list(self.alone[0])
        while not self.stop.is_set():
            asked = draw.choice(each)
            prompt = self.prompts[asked[1]]
            body = {"model": asked[0], "prompt": prompt.text, "max_tokens": prompt.most}
            since = time.monotonic()
            status, reply = post(self.address, {**body, "temperature": 0})
            self.count(asked, since, status, reply)

    def count(self, asked: Asked, since: float, status: int, reply: Any) -> None:
        text = reply["choices"][0]["text"] if status == 200 else ""
        with self.lock:
            kinds = ["failed"]
            if status == 200:
                which = self.in_service(since, time.monotonic())
                kinds = [kind_of(asked, text, self.alone[i]) for i in which]
            kind = next((x for x in ("right", "tie") if x in kinds), kinds[0])
            if str(self.file.parent) in str(reply):
                kind = "path_told"
            self.kinds[kind] += 1
            self.statuses[str(status)] += 1
            if kind not in ("right", "tie") and len(self.examples) < 20:
                self.examples.append({"kind": kind, "asked": asked, "got": text or str(reply)})


def put(data: bytes, file: Path) -> None:
    """Exchange the file in one step."""
    new = file.with_suffix(".new")
    new.write_bytes(data)
    new.replace(file)


def exchanging(service: Service, bundles: Sequence[Path], seconds: float) -> Row:
    """Exchange the bundle for so long, in every way in turn, and count what was replied."""
    data, now = [x.read_bytes() for x in bundles], 0
    replies: Counter[str] = Counter()
    odd: list[Row] = []
    end = time.monotonic() + seconds
    for how in itertools.cycle(("exchanged", "deleted", "signal", "cut", "no bundle")):
        if time.monotonic() >= end:
            break
        service.stop.wait(PAUSE)
        if how in ("exchanged", "signal"):
            now = 1 - now
            put(data[now], service.file)
        elif how == "deleted":
            service.file.unlink()
        else:
            put(data[1 - now][:-100] if how == "cut" else b"x" * 1000, service.file)
        time.sleep(PAUSE)  # the old one has to go on meanwhile
        asked = time.monotonic()
        if how == "signal":
            # Nothing says when it is done; the other may answer until the next one is sure.
            with service.lock:
                service.switches.append((asked, asked + 2 * PAUSE, now))
            os.kill(service.pid, signal.SIGHUP)
            time.sleep(2 * PAUSE)
            replies["signal"] += 1
            continue
        if how == "exchanged":
            with service.lock:
                service.switches.append((asked, float("inf"), now))
        status, reply = post(service.address.removesuffix("/v1"), {}, path="/reload")
        if how == "exchanged":
            with service.lock:
                service.switches[-1] = (asked, time.monotonic(), now)
        replies[f"{how}: {status}"] += 1
        if status != (200 if how == "exchanged" else 409) or str(service.file.parent) in str(reply):
            odd.append({"how": how, "status": status, "reply": str(reply)[:300]})
    return {"what": "reloads", "replies": dict(replies), "odd": len(odd), "examples": odd[:20]}


def connected(address: str) -> socket.socket:
    """Return a new connection to the server."""
    url = urlsplit(address)
    return socket.create_connection((str(url.hostname), url.port), timeout=5)


def halves(address: str, kind: str, count: int) -> Row:
    """Open so many connections that never finish what they send, and time until each is closed.

    kind: "half bodies", "half heads" or "drops", a byte of a body each second.
    """
    start = HEAD if kind == "half heads" else BODY + b"{"
    opened = time.monotonic()
    held = [connected(address) for _ in range(count)]
    for connection in held:
        connection.sendall(start)
        connection.setblocking(False)
    statuses: Counter[str] = Counter()
    times: list[float] = []
    answered = 0
    while held and time.monotonic() - opened < 4 * CLOSED_WITHIN:
        time.sleep(1)
        answered += post(address, {}, path="/nowhere")[0] == 404  # others are served meanwhile
        for connection in list(held):
            try:
                if kind == "drops":
                    connection.send(b" ")
                said = connection.recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                said = b""
            statuses[said.split(b" ")[1].decode() if b" " in said else "closed"] += 1
            times.append(time.monotonic() - opened)
            held.remove(connection)
            connection.close()
    for connection in held:
        connection.close()
    return {
        "what": kind,
        "connections": count,
        "closed": count - len(held),
        "first_seconds": round(min(times), 1) if times else None,
        "last_seconds": round(max(times), 1) if times else None,
        "limit_seconds": CLOSED_WITHIN,
        "statuses": dict(statuses),
        "others_answered": answered,
    }


def crowd(address: str, count: int) -> Row:
    """Open so many connections at once, send a whole request on each, and count the answers."""
    request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    held, statuses = [], Counter[str]()
    for _ in range(count):
        try:
            held.append(connected(address))
        except OSError:
            statuses["refused"] += 1
    for connection in held:
        try:
            connection.sendall(request)
            said = connection.recv(4096)
            statuses[said.split(b" ")[1].decode() if said else "closed"] += 1
        except OSError:
            statuses["closed"] += 1
    for connection in held:
        connection.close()
    time.sleep(1)
    after = post(address, {}, path="/nowhere")[0] == 404
    return {"what": "crowd", "connections": count, "statuses": dict(statuses), "well_after": after}


def ended(process: subprocess.Popen[str], service: Service) -> Row:
    """Send SIGTERM with half bodies open and requests under way, and return how it ended."""
    half = [connected(service.address) for _ in range(20)]
    for connection in half:
        connection.sendall(BODY + b"{")
    clients = [threading.Thread(target=service.ask, args=(99 + i,), daemon=True) for i in range(8)]
    service.stop.clear()
    for client in clients:
        client.start()
    time.sleep(2)
    service.stop.set()
    asked = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    try:
        code: int | None = process.wait(6 * ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        code = None
    seconds = time.monotonic() - asked
    for client in clients:
        client.join(10)
    for connection in half:
        connection.close()
    return {
        "what": "exit",
        "half_bodies": len(half),
        "exit_code": code,
        "exit_seconds": round(seconds, 2),
        "limit_seconds": ENDED_WITHIN,
    }


def under_load(service: Service, bundles: Sequence[Path], args: argparse.Namespace) -> list[Row]:
    """Run the clients and the exchanges, and return what both saw."""
    seeds = range(args.seed, args.seed + args.clients)
    clients = [threading.Thread(target=service.ask, args=(i,), daemon=True) for i in seeds]
    for client in clients:
        client.start()
    reloads = exchanging(service, bundles, args.seconds)
    service.stop.set()
    for client in clients:
        client.join()
    wrong = ("wrong_task", "unexplained", "failed", "path_told")
    answers = {
        "what": "answers while the bundle is exchanged",
        "seconds": args.seconds,
        "clients": args.clients,
        "requests": service.kinds.total(),
        **{kind: service.kinds[kind] for kind in ("right", "tie", *wrong)},
        "statuses": dict(service.statuses),
        "examples": service.examples,
    }
    return [answers, reloads]


def problems_of(rows: Sequence[Row]) -> list[str]:
    """Return what is not as it should be."""
    found = []
    for row in rows:
        bad = [x for x in ("wrong_task", "unexplained", "failed", "path_told", "odd") if row.get(x)]
        found += [f"{row['what']}: {row[x]} {x}" for x in bad]
        if "closed" in row and row["closed"] < row["connections"]:
            found.append(f"{row['what']}: {row['closed']} of {row['connections']} closed")
        for seconds in ("last_seconds", "exit_seconds"):
            if (row.get(seconds) or 0) > row.get("limit_seconds", 0):
                found.append(f"{row['what']}: {row[seconds]} s")
        if row.get("well_after") is False or row.get("tracebacks"):
            found.append(f"{row['what']}: not well afterwards")
    return found


def attack(
    base: Path, bundles: Sequence[Path], alone: Any, prompts: Any, args: argparse.Namespace
) -> list[Row]:
    """Start the server on a copy of the first bundle, and do all of it."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(shutil.copy(bundles[0], Path(place) / "served.hydra.safetensors"))
        with (Path(place) / "stderr").open("w+") as errors:
            process, about = started_server(base, file, args.threads, errors)
            try:
                service = Service(about["address"], process.pid, file, prompts, alone)
                rows = under_load(service, bundles, args)
                for kind, share in (("half bodies", 2), ("half heads", 4), ("drops", 4)):
                    rows.append(halves(service.address, kind, args.connections // share))
                rows.append(crowd(service.address, 2 * args.connections))
                rows.append(ended(process, service))
            finally:
                process.kill()
                process.communicate()
            errors.seek(0)
            rows[-1]["tracebacks"] = errors.read().count("Traceback")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--base", type=Path, help="model folder; default a tiny one")
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        help="two of them, with --base",
    )
    parser.add_argument("--seconds", type=float, default=300, help="of exchanges under load")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--connections", type=int, default=400, help="half of them half bodies")
    parser.add_argument("--prompts", type=int, default=2, help="asked of every task and the base")
    parser.add_argument("--tokens", type=int, default=12, help="of an answer, about, at most")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--seed", type=int, default=0, help="of the first client's requests")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args(arguments)
    given = len(args.bundle or ())
    if given != (0 if args.base is None else 2):
        parser.error(f"--base and exactly two --bundle belong together; got {given} --bundle")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    head = provenance("a server under half requests, crowds and exchanged bundles", seed=args.seed)
    prompts = prompts_of(args.prompts, args.tokens)
    with tempfile.TemporaryDirectory() as place:
        base, bundles = args.base, args.bundle
        if base is None:
            base, bundles = write_tiny(Path(place), TASKS)
        torch.set_num_threads(args.threads)
        model, tokenizer = load_model(str(base))
        named = base_name_of(str(base), [str(bundles[0])])
        alone = [answered_alone(model, tokenizer, x, named, prompts) for x in bundles]
        del model
        rows = attack(base, bundles, alone, prompts, args)
    differing = sum(alone[0][x].text != alone[1][x].text for x in alone[0])
    rows[0]["answers_that_differ_between_bundles"] = f"{differing} of {len(alone[0])}"
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    if args.json is not None:
        print(write_result(args.json.parent, args.json.stem, head, rows))
    problems = problems_of(rows)
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0
