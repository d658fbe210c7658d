"""One tool on one set of adapters, in a process of its own. Prints JSON lines.

    python child_scaling.py TOOL merge|read REPEATS LIMIT WORK ADAPTER_FOLDER...

"merge": put the adapters together and save that, REPEATS times, then the memory. "read": open what
was saved, rebuild one task, export it as a PEFT folder; the first time with the files dropped from
the page cache and no compiled code loaded ("cold open", "cold task"), then REPEATS times more. A
run of more than LIMIT seconds ends the process by SIGALRM, in the middle of whatever library it is
in.
A tool's own imports and what it needs before it can start (PEFT: a model with all adapters on it;
mergekit: two models on disk) are not timed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PREPARE_SECONDS = 600


class Tool:
    """folders: of the adapters. saved: the folder of what a merge leaves behind."""

    def __init__(self, folders: list[Path], work: Path) -> None:
        self.folders = folders
        self.names = [folder.name for folder in folders]
        self.saved, self.exported = work / "saved", work / "exported"
        self.saved.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """What comes before a merge and is not timed."""

    def merge(self) -> None:
        raise NotImplementedError

    def open(self) -> None:
        raise NotImplementedError

    def task(self) -> None:
        raise NotImplementedError

    def export(self) -> None:
        raise NotImplementedError


def hydraopt() -> type[Tool]:
    # The package loads lazily; others' imports are not timed either.
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.export.peft import export_peft  # noqa: F401
    from hydraopt.merging import merge

    class Hydraopt(Tool):
        def merge(self) -> None:
            merge(self.folders, self.saved / "all.hydra.safetensors", size="5%")

        def open(self) -> None:
            self.bundle = open_bundle(self.saved / "all.hydra.safetensors")

        def task(self) -> None:
            self.bundle[self.names[0]].factors()

        def export(self) -> None:
            self.bundle[self.names[0]].save_pretrained(self.exported, overwrite=True)

    return Hydraopt


def lorashare() -> type[Tool]:
    from lorashare import SHAREModel

    class Lorashare(Tool):
        def merge(self) -> None:
            adapters = dict(zip(self.names, map(str, self.folders), strict=True))
            SHAREModel.from_adapters(adapters, device="cpu").save_pretrained(str(self.saved))

        def open(self) -> None:
            self.model = SHAREModel.from_pretrained(str(self.saved))

        def task(self) -> None:
            self.model.reconstruct(self.names[0])

        def export(self) -> None:
            self.model.reconstruct(self.names[0], str(self.exported))

    return Lorashare


def vlora(copies: bool) -> type[Tool]:
    """copies: of the tensors in float32; as they are in the files they may be refused."""
    sys.path.append(str(HERE.parent / "quality"))
    from peer_vlora import floats
    from vlora import SharedSubspace, load_adapter, save_adapter

    class Vlora(Tool):
        def merge(self) -> None:
            adapters = [load_adapter(folder) for folder in self.folders]
            adapters = [floats(adapter) for adapter in adapters] if copies else adapters
            SharedSubspace.from_adapters(adapters, task_ids=self.names).save(self.saved)

        def open(self) -> None:
            self.space = SharedSubspace.load(self.saved)

        def task(self) -> None:
            self.space.reconstruct(self.names[0])

        def export(self) -> None:
            save_adapter(self.space.reconstruct(self.names[0]), self.exported)

    return Vlora


def peft() -> type[Tool]:
    from child_peft import loaded

    class Peft(Tool):
        def prepare(self) -> None:
            self.model, self.loaded = loaded([str(folder) for folder in self.folders])
            self.count = 0

        def merge(self) -> None:
            weights = [1 / len(self.loaded)] * len(self.loaded)
            self.count += 1
            self.model.base_model.add_weighted_adapter(
                self.loaded, weights, f"merged{self.count}", combination_type="svd"
            )

    return Peft


def mergekit() -> type[Tool]:
    """Extraction alone, from a model to which the mean of the adapters was added."""
    from mergekit.scripts.extract_lora import main
    from mergekit_models import write_models

    class Mergekit(Tool):
        def prepare(self) -> None:
            self.base, self.model = self.saved.parent / "base", self.saved.parent / "tuned"
            self.kinds, self.rank = write_models(self.folders, self.base, self.model)

        def merge(self) -> None:
            arguments = ["--model", self.model, "--base-model", self.base]
            arguments += [
                "--out-path",
                self.saved,
                "--max-rank",
                self.rank,
                "--skip-undecomposable",
            ]
            arguments += [x for kind in self.kinds for x in ("-i", rf"\.{re.escape(kind)}$")]
            main.main([str(x) for x in arguments], standalone_mode=False)

    return Mergekit


TOOLS: dict[str, Callable[[], type[Tool]]] = {
    "hydraopt": hydraopt,
    "lorashare": lorashare,
    "vlora": lambda: vlora(copies=False),
    "vlora fp32": lambda: vlora(copies=True),
    "peft svd": peft,
    "mergekit extract": mergekit,
}


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def timed(name: str, run: Callable[[], None], limit: int) -> None:
    signal.alarm(limit)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    signal.alarm(0)
    say({"run": name, "wall": wall, "cpu": cpu})


def forget(folder: Path) -> None:
    """Ask the system to drop the files' pages: the next read is from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    name, mode, repeats, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    signal.alarm(PREPARE_SECONDS)
    make = TOOLS[name]()
    imported = resident()
    tool = make([Path(folder) for folder in sys.argv[6:]], Path(sys.argv[5]))
    if mode == "read":
        forget(tool.saved)
        say({"run": "ready"})
        timed("cold open", tool.open, limit)
        timed("cold task", tool.task, limit)
        for _ in range(repeats):
            timed("open", tool.open, limit)
            timed("task", tool.task, limit)
            shutil.rmtree(tool.exported, ignore_errors=True)
            timed("export", tool.export, limit)
        return
    tool.prepare()
    say({"run": "ready"})
    for _ in range(repeats):
        timed("merge", tool.merge, limit)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(path.stat().st_size for path in tool.saved.rglob("*") if path.is_file())
    say({"run": "about", "imported": imported, "peak": peak, "bytes": size})


if __name__ == "__main__":
    main()
