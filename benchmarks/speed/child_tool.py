"""One tool on one set of adapters, in a process of its own. Prints JSON lines.

    python -m benchmarks.speed.child_tool TOOL merge|read REPEATS LIMIT WORK ADAPTER_FOLDER...

"merge": put the adapters together and save that, REPEATS times, then the memory. "read": open what
was saved, rebuild one task, export it as a PEFT folder; the first time with the files dropped from
the page cache and no compiled code loaded ("cold open", "cold task"), then REPEATS times more. A
run of more than LIMIT seconds ends the process by SIGALRM, in the middle of whatever library it is
in.
A tool's own imports and what it needs before it can start (PEFT: a model with all adapters on it;
mergekit: two models on disk) are not timed.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from benchmarks.rivals.registry import tool_of
from benchmarks.rivals.tool import Tool, folder_bytes
from benchmarks.speed.clock import forget, peak, resident, say, timed

PREPARE_SECONDS = 600
OURS = "hydraopt"


def hydraopt() -> type[Tool]:
    """Return what is timed of hydraopt, at 5 %."""
    # The package loads lazily; others' imports are not timed either.
    from hydraopt.bundle.peft.folder import export_peft  # noqa: F401
    from hydraopt.collection.opening import open_bundle
    from hydraopt.merging.merge import merge

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


def main() -> None:
    """Run the command line."""
    name, mode, repeats, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    signal.alarm(PREPARE_SECONDS)
    make = hydraopt() if name == OURS else tool_of(name)
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
    size = folder_bytes(tool.saved)
    say({"run": "about", "imported": imported, "peak": peak(), "bytes": size})


if __name__ == "__main__":
    main()
