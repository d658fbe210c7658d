"""The rivals: a row here and a file beside it for each.

A row says which functions its file has. ``rows``: ``rows(shape)``, compressors in the order of the
tables. ``tools``: names under which it is timed; its file has ``tool(name)``, which runs in the
environment of its ``package`` if it has one. Files are imported when they are needed, so that this
one is light and also runs inside those environments.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.rivals.base import Compressor
    from benchmarks.rivals.tool import Tool

__all__ = [
    "RIVALS",
    "TOOLS",
    "Rival",
    "SetShape",
    "requirements",
    "rows_of",
    "tool_of",
]


@dataclass(frozen=True)
class SetShape:
    """Number of tasks of a set, and about their rank; rows depend on both."""

    tasks: int
    rank: int


@dataclass(frozen=True)
class Rival:
    """name: of its file. what: it is, and where it is from.

    package: requirement of its environment. needs: what pip installs with it, beyond what is
    borrowed. tools: by name, whether a task can be read back from what a merge leaves.
    """

    name: str
    what: str
    rows: bool = False
    package: str | None = None
    needs: tuple[str, ...] = ()
    tools: Mapping[str, bool] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return f"benchmarks.rivals.{self.name}"


RIVALS = (
    Rival("files", "the adapters' own fp16 files: as they are, zip, zstd", rows=True),
    Rival("group", "groups of few bits with a scale", rows=True),
    Rival("nf4", "QLoRA's 16 levels, arXiv 2305.14314", rows=True),
    Rival("svd", "truncated SVDs in fp16, by rank or by energy", rows=True),
    Rival("svd_group", "truncated SVDs, then 4 bits in groups", rows=True),
    Rival("coded_svd", "SVDs rounded with one slope, in a range code", rows=True),
    Rival("loraquant", "LoRAQuant, arXiv 2510.26690", rows=True),
    Rival("jd", "Compress then Serve, full and diagonal, arXiv 2407.00066", rows=True),
    Rival("heads", "HydraOpt as published, arXiv 2507.17706", rows=True),
    Rival("one_for_all", "merging methods that make one adapter of all", rows=True),
    Rival("k_merge", "K-Merge: a few adapters for all", rows=True),
    Rival(
        "lorashare",
        "the package lorashare",
        package="lorashare==0.1.3",
        tools={"lorashare": True},
    ),
    Rival(
        "vlora",
        "the package vlora-dev",
        package="vlora-dev==1.0.0",
        tools={"vlora": True, "vlora fp32": True},
    ),
    Rival("peft_svd", "PEFT's svd merge", tools={"peft svd": False}),
    Rival(
        "mergekit",
        "mergekit-extract-lora",
        package="mergekit==0.1.5",
        needs=("immutables>=0.21",),
        tools={"mergekit extract": False},
    ),
)
_BY_NAME = {rival.name: rival for rival in RIVALS}
TOOLS = {name: rival for rival in RIVALS for name in rival.tools}
"""Those that are timed, by the name of the tool."""


def requirements(name: str) -> list[str]:
    """Return what pip installs for a rival, its package first.

    Raises ValueError if it has none.
    """
    rival = _BY_NAME[name]
    if rival.package is None:
        known = [x.name for x in RIVALS if x.package]
        raise ValueError(f"{name} has no package\n  expected one of: {', '.join(known)}")
    return [rival.package, *rival.needs]


def rows_of(shape: SetShape) -> list[Compressor]:
    """Return all rows, in the order of the registry."""
    return list(_rows(shape))


def _rows(shape: SetShape) -> Iterator[Compressor]:
    for rival in RIVALS:
        if rival.rows:
            yield from _file(rival).rows(shape)


def tool_of(name: str) -> type[Tool]:
    """The class that is timed under this name; the libraries it needs are imported now."""
    found: type[Tool] = _file(TOOLS[name]).tool(name)
    return found


def _file(rival: Rival) -> Any:
    return importlib.import_module(rival.module)
