"""Measure opening, listing, using and changing a folder of core and task files.

    python -m benchmarks.speed folders BUNDLE

BUNDLE has the adapters of examples/adapters. The folders have its streams under other names, harms
drawn at random, and an index. Seconds are of this process's CPU, the median of so many tries; bytes
are those that it reads and writes, of files alone. Stores are a plain web server that lists nothing
and an S3 server, both on this machine; each row begins with an empty cache. Needs chromium,
chromedriver and selenium for the first view of explore, which is left out without them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import fsspec

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, write_result
from benchmarks.speed.remote import KEYS, Wire
from benchmarks.speed.report import served_row, write_collection
from hydraopt import Bundle, open_bundle
from hydraopt.bundle.container import INDEX_NAME
from hydraopt.collection.splitting import split
from hydraopt.editing.verbs import add
from hydraopt.inspect.listing import listing
from tests.remote.servers import s3_server, web_server
from tests.report import browser

_ADAPTER = ROOT / "examples" / "adapters" / "dates-de"


def spent(act: Callable[[], object]) -> tuple[float, int, int]:
    """Run ``act``; return CPU seconds of this process, bytes that it read and that it wrote."""
    started, before = time.process_time(), _counted()
    act()
    seconds, after = time.process_time() - started, _counted()
    return seconds, after[0] - before[0], after[1] - before[1]


def _counted() -> tuple[int, int]:
    said = dict(x.split(": ") for x in Path("/proc/self/io").read_text().splitlines())
    return int(said["rchar"]), int(said["wchar"])


def medians(acts: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Return the median of each, over what is done again and again."""
    seconds, read, written = zip(*map(spent, acts), strict=True)
    return {
        "seconds": round(median(seconds), 4),
        "read": int(median(read)),
        "written": int(median(written)),
    }


def folder_row(folder: Path, tasks: int, repeats: int) -> dict[str, Any]:
    """Return what the steps take with an index, and opening without one."""
    index = folder / INDEX_NAME
    size = index.stat().st_size
    opened = open_bundle(folder)
    names = list(opened)[:: max(tasks // repeats, 1)][:repeats]
    opened[names[0]].factors()  # all is compiled
    row = {
        "what": "folder",
        "tasks": tasks,
        "index": size,
        "open": medians([lambda: open_bundle(folder)] * repeats),
        "list": medians([lambda: listing(folder)] * repeats),
        "task": medians([partial(open_bundle, folder, tasks=[name]) for name in names]),
    }
    fresh = open_bundle(folder)

    def further(name: str) -> None:
        fresh[name].read("task/0")

    row["further"] = medians([partial(further, name) for name in names])
    add(folder, [f"warm={_ADAPTER}"], workers=1)
    row["added"] = (folder / "warm.task.safetensors").stat().st_size
    row["add"] = medians(
        [partial(add, folder, [f"new{i}={_ADAPTER}"], workers=1) for i in range(repeats)]
    )
    held = index.read_bytes()
    index.unlink()
    row["open_without"] = medians([lambda: open_bundle(folder)])
    index.write_bytes(held)
    return row


@contextmanager
def _stores(folder: Path, uploaded: bool) -> Iterator[list[tuple[str, str, Wire]]]:
    """Yield (name, address of the folder, wire) of each store."""
    with web_server(folder) as web, s3_server() as s3:
        wires = [Wire(web.address), Wire(s3)]
        stores = [("http", f"{wires[0].address}/", wires[0])]
        with mock.patch.dict(os.environ, {**KEYS, "AWS_ENDPOINT_URL": wires[1].address}):
            if uploaded:
                system = fsspec.filesystem("s3")
                bucket = f"tasks-{len(list(folder.iterdir()))}"
                system.mkdir(bucket)
                for file in sorted(folder.iterdir()):
                    system.pipe_file(f"{bucket}/all/{file.name}", file.read_bytes())
                stores.append(("s3", f"s3://{bucket}/all/", wires[1]))
            yield stores
            fsspec.filesystem("s3").clear_instance_cache()
        for wire in wires:
            wire.close()


def _over(wire: Wire, act: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """Return what ``act`` gives, with the requests, and the bytes of all that came back."""
    asked, sent = wire.requests, wire.sent
    given = act()
    time.sleep(0.1)  # what is under way is counted
    return given, {"requests": wire.requests - asked, "wire": wire.sent - sent}


def _use(bundle: Bundle, task: str) -> None:
    bundle[task].factors()


def store_rows(folder: Path, tasks: int, uploaded: bool) -> Iterator[dict[str, Any]]:
    """Yield requests and bytes to open the folder, then to use one task."""
    with _stores(folder, uploaded) as stores:
        for name, address, wire in stores:
            with (
                tempfile.TemporaryDirectory() as cache,
                mock.patch.dict(os.environ, {"HYDRAOPT_CACHE": cache}),
            ):
                bundle, opening = _over(wire, partial(open_bundle, address))
                task = list(bundle)[tasks // 2]
                _, using = _over(wire, partial(_use, bundle, task))
            core, own = bundle[task].contents.files
            yield {
                "what": "store",
                "store": name,
                "tasks": tasks,
                "index": (folder / INDEX_NAME).stat().st_size,
                "needed": core.size + own.size,
                "open": opening,
                "task": using,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write benchmarks/results/speed/folders.json."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--in-s3", type=int, default=1000, help="Most tasks that are uploaded.")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    if unseen := browser.why_not():
        print(f"the first view is left out: {unseen}", file=sys.stderr)
    head = provenance("a folder of core and tasks with an index", 0)
    rows: list[dict[str, Any]] = []
    for count in args.tasks:
        with tempfile.TemporaryDirectory() as scratch:
            whole, folder = Path(scratch) / "all.hydra.safetensors", Path(scratch) / "all"
            write_collection(args.bundle, whole, count)
            split(whole, folder)
            made = list(store_rows(folder, count, count <= args.in_s3))
            made.append(served_row(folder, count, args.repeats))
            made.append(folder_row(folder, count, args.repeats))
            shutil.rmtree(folder)
        rows += made
        for row in made:
            print(json.dumps(row), flush=True)
        write_result(SPEED, "folders", {**head, "bundle": args.bundle.name}, rows)


if __name__ == "__main__":
    main()
