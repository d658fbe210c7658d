"""Run a reader on every case, and report where its results differ from expected.jsonl.

    python conformance/run.py [--without-adapters] COMMAND...        exit code 1 if any differs

README.md describes what the command gets and prints. Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PARTS = ("modules", "tensors", "adapter")


def expected_results() -> list[dict[str, Any]]:
    """Return the lines of expected.jsonl."""
    lines = (FOLDER / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def path_of(case: Mapping[str, Any]) -> Path:
    """Return the file or folder of a line of expected.jsonl."""
    return FOLDER / "cases" / str(case["case"])


def results_of(command: Sequence[str], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what a reader prints, a result for each path; raise ValueError for anything else."""
    words = [*command, *map(str, paths)]
    done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    lines = [*io.StringIO(done.stdout)]  # a text may hold other ends of lines than \n
    if done.returncode or len(lines) != len(paths):
        raise ValueError(f"exit code {done.returncode}, {len(lines)} lines for {len(paths)} paths")
    return [json.loads(line) for line in lines]


def differences(
    expected: Mapping[str, Any], got: Mapping[str, Any], adapters: bool = True
) -> list[str]:
    """Return a line for each value of a result that is not the expected one.

    adapters: False for a reader that writes no adapters.
    """
    tasks, verify = got["tasks"], expected["verify"]
    found = []
    if got["verify"] != verify and (adapters or (verify, got["verify"]) != ("unsupported", "ok")):
        found.append(f"verify: {got['verify']}, expected {verify}")
    if verify in ("ok", "unsupported") and list(tasks) != list(expected["tasks"]):
        found.append(f"tasks: {list(tasks)}, expected {list(expected['tasks'])}")
    for name, parts in expected["tasks"].items():
        own = tasks.get(name, {})
        for part in PARTS if adapters else PARTS[:-1]:
            if part not in parts:
                continue
            may_lack = part in expected.get("may_lack", ()) or parts[part] == "range"
            value = own.get(part)
            if value != parts[part] and not (may_lack and value == "unsupported"):
                found.append(f"{name!r}, {part}: {value}, expected {parts[part]}")
    return found


def main(command: Sequence[str]) -> int:
    """Print what differs and how many cases were run; return the exit code."""
    adapters = command[:1] != ["--without-adapters"]
    command = command if adapters else command[1:]
    cases = expected_results()
    count = 0
    for case, got in zip(cases, results_of(command, [*map(path_of, cases)]), strict=True):
        found = differences(case, got, adapters)
        count += bool(found)
        ground = f" [{case['ground']}]" if "ground" in case else ""
        for line in found:
            print(f"{case['case']}{ground}: {line}")
    print(f"{len(cases)} cases, {count} differ")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
