"""requirements/ci.txt: the versions that were tested, each with its hashes.

python -m tools.lock            # renew it; needs uv and a package index
python -m tools.lock --lowest   # print the lowest versions that pyproject.toml allows

Of torch the file has no line: its builds for CPUs and GPUs differ in hashes, and which is right
depends on the machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tools.pages import ROOT

__all__ = ["LOCK", "bounds", "lowest"]

LOCK = ROOT / "requirements" / "ci.txt"
PROJECT = ROOT / "pyproject.toml"
EXTRA = "dev"
# Where the build lies is the machine's business, and setuptools builds, but is not of the set.
LEFT_OUT = ("torch", "setuptools")
HEADER = """\
# The versions that the tests were run with, from Python 3.11 on. Made by python -m tools.lock.
#   pip install --require-hashes --no-deps -r requirements/ci.txt
#   pip install 'torch{torch}'
#   pip install --no-deps --no-build-isolation -e .
# torch has no line here: its builds for CPUs and GPUs have different hashes.
"""
_BOUND = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[([^\]]*)\])?(.*)$")
_NEVER = "sys_platform == 'never'"


def bounds(extra: str | None = EXTRA) -> Iterator[tuple[str, str]]:
    """(name, version specifiers) of what the package needs, with an extra and those it names."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(extras[extra] if extra else [])]
    while waiting:
        parts = _BOUND.match(waiting.pop(0))
        assert parts is not None
        name, inner, versions = parts.groups()
        if name == project["name"]:
            waiting += [line for other in inner.split(",") for line in extras[other.strip()]]
        else:
            yield name.lower(), versions.strip()


def lowest() -> str:
    """Constraints for pip: each package of the dev extra at its lower bound, torch left free."""
    low: dict[str, str] = {}
    for name, versions in bounds():
        at_least = re.search(r">=([\w.]+)", versions)
        assert at_least is not None, f"{name} has no lower bound"
        version = at_least[1]
        if name not in low or _key(version) > _key(low[name]):
            low[name] = version
    return "".join(f"{name}=={low[name]}\n" for name in sorted(low) if name not in LEFT_OUT)


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def locked() -> str:
    """The text of the lock, resolved now."""
    with tempfile.TemporaryDirectory() as scratch:
        made, without = Path(scratch, "made.txt"), Path(scratch, "without.txt")
        without.write_text(f"torch ; {_NEVER}\n")
        command = ["uv", "pip", "compile", str(PROJECT), "--extra", EXTRA]
        command += ["--output-file", str(made), "--override", str(without)]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        text = made.read_text(encoding="utf-8")
    entries = re.findall(r"^[^\s#].*(?:\n    .*)*", text, re.MULTILINE)
    kept = [_plain(entry) for entry in entries if entry.partition("==")[0] not in LEFT_OUT]
    return HEADER.format(torch=dict(bounds())["torch"]) + "\n".join(kept) + "\n"


def _plain(entry: str) -> str:
    # What only torch needs has its mark.
    return entry.replace(f" and {_NEVER}", "").replace(f" ; {_NEVER}", "")


def main() -> None:
    """Write the lock, or print the lowest versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lowest", action="store_true", help="print constraints, change nothing")
    if parser.parse_args().lowest:
        print(lowest(), end="")
        return
    LOCK.parent.mkdir(exist_ok=True)
    LOCK.write_text(locked(), encoding="utf-8")
    print(f"wrote {LOCK.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
