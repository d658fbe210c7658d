"""Compare the bytes of bundles that this tree writes with those of another revision.

    python -m benchmarks.same_bytes --against 828489a

Both trees merge the same adapters in this environment, one after the other, on this machine (the
last bits of a decomposition, and so some bytes, differ between processors): the examples at 10, 5
and 3 %, by error, by the worst error, fair, lossless, shrunk, HydraOpt with four heads, and the
forty adapters of ``gemma3-5x8`` at 10 and 5 % (zoo/fetch.py unpacks them). The golden files of the
tests are compared as they lie in git.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = "tests/bundle/golden"

Hashes = dict[str, str]

CASES: dict[str, dict[str, Any]] = {
    "examples-10": {"size": "10%"},
    "examples-default": {},
    "examples-5": {"size": "5%"},
    "examples-3": {"size": "3%"},
    "examples-error": {"error": 0.2},
    "examples-worst": {"max_error": 0.3},
    "examples-fair": {"size": "6%", "fair": True},
    "examples-frobenius": {"size": "5%", "measure": "frobenius"},
    "examples-weighed": {"size": "4%", "importance": {"dates-de": 3.0}},
    "examples-lossless": {"lossless": True},
}
"""Options of a merge of the eight examples, by the name of the bundle."""
FORTY = {"forty-10": {"size": "10%"}, "forty-5": {"size": "5%"}}
CODE = """
import json, sys
import hydraopt
try:
    from hydraopt.merging import combine
except ImportError:  # in older revisions
    from hydraopt.methods import combine
name, options, output, *inputs = sys.argv[1:]
if name == "merge":
    hydraopt.merge(inputs, output, **json.loads(options))
elif name == "shrink":
    hydraopt.shrink(*inputs, output, **json.loads(options))
else:
    combine(inputs, output, "hydraopt", **json.loads(options))
"""
"""Python's functions, whose names stay where options of the command line come and go."""


def bundles(tree: Path, adapters: Path, work: Path, quick: bool) -> Hashes:
    """Return by name hashes of bundles that the code of ``tree`` makes of this tree's adapters."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}

    def run(name: str, inputs: list[str], options: dict[str, Any], output: str) -> str:
        path = work / f"{output}.hydra.safetensors"
        command = [sys.executable, "-c", CODE, name, json.dumps(options), str(path), *inputs]
        subprocess.run(command, env=environment, cwd=work, check=True, capture_output=True)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def folders(of: str) -> list[str]:
        if not (adapters / of).is_dir():
            sys.exit(f"{of} is missing: run python -m zoo.fetch zoo-evidence.tar, or use --quick")
        return [str(x) for x in sorted((adapters / of).iterdir()) if x.is_dir()]

    eight = folders("examples/adapters")
    found = {name: run("merge", eight, more, name) for name, more in CASES.items()}
    first = [str(work / "examples-10.hydra.safetensors")]
    found["examples-shrunk"] = run("shrink", first, {"size": "3%"}, "examples-shrunk")
    found["examples-hydraopt"] = run("combine", eight, {"heads": 4}, "examples-hydraopt")
    if not quick:
        forty = folders("zoo/adapters/gemma3-5x8")
        found |= {name: run("merge", forty, more, name) for name, more in FORTY.items()}
    return found


def golden(revision: str) -> Hashes:
    """Return the blobs of the golden files at a revision, by file name."""
    listed = _git("ls-tree", "-r", revision, "--", GOLDEN).splitlines()
    rows = (line.split("\t") for line in listed)
    return {Path(name).name: about.split()[2] for about, name in rows if ".safetensors" in name}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compare(against: str, quick: bool) -> tuple[Hashes, Hashes]:
    """Return the hashes of this tree and of the other revision."""
    with tempfile.TemporaryDirectory() as folder:
        other, here, there = (Path(folder) / name for name in ("tree", "here", "there"))
        _git("worktree", "add", "--detach", str(other), against)
        try:
            if (other / "setup.py").is_file():  # older revisions have nothing to compile
                build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
                subprocess.run(build, cwd=other, check=True, capture_output=True)
            here.mkdir()
            there.mkdir()
            old = bundles(other, ROOT, there, quick) | golden(against)
            new = bundles(ROOT, ROOT, here, quick) | golden("HEAD")
        finally:
            _git("worktree", "remove", "--force", str(other))
    return new, old


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--against", required=True, help="a revision of this repository")
    parser.add_argument("--quick", action="store_true", help="without the forty adapters")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    new, old = compare(options.against, options.quick)
    differ = sorted(name for name in {*new, *old} if new.get(name) != old.get(name))
    if options.json:
        print(json.dumps({"against": options.against, "differ": differ, "sha256": new}, indent=1))
    elif differ:
        print(
            f"{len(differ)} of {len(new)} files differ from {options.against}: {', '.join(differ)}"
        )
    else:
        print(
            f"all {len(new)} bundles and golden files are those of {options.against}, byte for byte"
        )
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    main()
