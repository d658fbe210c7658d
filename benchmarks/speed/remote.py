"""Count the bytes over the network of opening a bundle at an address and using its tasks.

    python -m benchmarks.speed remote BUNDLE

The bundle lies, as one file and as a core with task files, behind a plain web server with ranges
and in an S3 server, both on this machine. Each row begins with an empty cache: it opens the bundle,
and decodes so many tasks, one after another. Then it does so again, with the cache that it has now.
"wire" is all that came back, heads of answers included; "fetched" is what of it are bytes of files.
"needed" is the core (header, manifest and shared stream) and the tasks' own bytes.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import fsspec

from benchmarks.commands import parser_of
from benchmarks.common import SPEED, provenance, write_result
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.splitting import split
from tests.remote.servers import s3_server, web_server

_BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
_CONTENT = "{}/one.hydra.safetensors", "{}/parts/one.core.safetensors"


class Wire:
    """What a server is asked, and sends. address: where to call it, instead of there. requests: of
    its callers. sent: bytes to them."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = (str(parts.hostname), int(parts.port or 80))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent = self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for ends, counted in (((caller, server), False), ((server, caller), True)):
                threading.Thread(target=self._pass, args=(*ends, counted), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self.sent += len(data)
                else:
                    self.requests += data.count(b" HTTP/1.1\r\n")
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._listening.close()


def needed(bundle: Bundle, names: Sequence[str]) -> int:
    """Return bytes of the core, of the tasks' own, and of the heads of the files that have them."""
    sizes = bundle.tensor_bytes
    if len(bundle.files) > 1:
        return sum(file.size for file in bundle.files)
    entries = [bundle[name].entry for name in names]
    own = sum(sizes[f"task/{entry.content}"] for entry in entries if entry.content is not None)
    carried = {i for entry in entries for i in entry.carried}
    core = bundle.files[0].header + sizes["manifest"] + sizes["shared"]
    return core + own + sum(sizes[f"carried/{i}"] for i in carried)


def used(address: str, names: Sequence[str], wire: Wire) -> dict[str, Any]:
    """Return what it takes to open the bundle for these tasks and to decode them."""
    before, start = wire.sent, time.perf_counter()
    bundle = open_bundle(address, tasks=names)
    for name in names:
        bundle[name].factors()
    seconds = time.perf_counter() - start
    time.sleep(0.1)  # what is under way is counted
    return {
        "wire": wire.sent - before,
        "fetched": bundle.fetched,
        "needed": needed(bundle, names),
        "seconds": round(seconds, 3),
    }


def rows_of(store: str, root: str, names: Sequence[str], wire: Wire) -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of bundle under ``root``, each with a cache of its own."""
    for kind, content in zip(("one file", "core and tasks"), _CONTENT, strict=True):
        with (
            tempfile.TemporaryDirectory() as cache,
            mock.patch.dict(os.environ, {"HYDRAOPT_CACHE": cache}),
        ):
            first, again = (used(content.format(root), names, wire) for _ in range(2))
        print(store, kind, len(names), first, again)
        ratio = round(first["wire"] / first["needed"], 4)
        about = {"store": store, "kind": kind, "tasks": len(names), "ratio": ratio}
        yield {**about, **first, "again_wire": again["wire"], "again_fetched": again["fetched"]}


@contextmanager
def _stores(folder: Path) -> Iterator[list[tuple[str, str, Wire]]]:
    """Yield (name, address, wire) of each store, with what the folder holds."""
    with web_server(folder) as web, s3_server() as s3:
        wires = [Wire(web.address), Wire(s3)]
        settings = {**KEYS, "AWS_ENDPOINT_URL": wires[1].address}
        with mock.patch.dict(os.environ, settings):
            system = fsspec.filesystem("s3")
            system.mkdir(_BUCKET)
            for file in (x for x in folder.rglob("*") if x.is_file()):
                system.pipe_file(f"{_BUCKET}/{file.relative_to(folder)}", file.read_bytes())
            yield [("http", wires[0].address, wires[0]), ("s3", f"s3://{_BUCKET}", wires[1])]
        for wire in wires:
            wire.close()


def measured(path: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of a bundle in one file, for so many of its tasks, in their order."""
    names = list(open_bundle(path))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "one.hydra.safetensors").write_bytes(path.read_bytes())
        split(folder / "one.hydra.safetensors", folder / "parts")
        with _stores(folder) as stores:
            return [
                row
                for name, address, wire in stores
                for count in counts
                for row in rows_of(name, address, names[:count], wire)
            ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 5], metavar="COUNT")
    args = parser.parse_args(arguments)
    head = provenance("bytes over the network to open a bundle and use tasks of it")
    about = {"bundle": args.bundle.name, "size": args.bundle.stat().st_size}
    write_result(SPEED, "remote", {**head, **about}, measured(args.bundle, args.tasks))


if __name__ == "__main__":
    main()
