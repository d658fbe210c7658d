"""Bytes and seconds of an installation, and of a start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import wrapped

__all__ = ["SECTIONS"]


def text(result: Mapping[str, Any]) -> str:
    installed, *starts = result["rows"]
    start = {row["name"]: row for row in starts}
    largest = ", ".join(
        f"{name} {size / 1e6:.0f} MB" for name, size in installed["largest"].items()
    )
    opened, numpy = start["open"], start["numpy"]
    return (
        f"The core takes {installed['bytes'] / 1e6:.0f} MB ({largest}) and installs in "
        f"{installed['seconds']:.0f} s into an empty environment. `hydraopt --help` ends after "
        f"{start['help']['wall_ms']} ms. A fresh process opens a bundle and decodes a task in "
        f"{opened['wall_ms']} ms, of which importing numpy takes {numpy['wall_ms']} ms "
        "(`benchmarks/results/speed/install.json`).\n"
    )


def block() -> str:
    result = json.loads((SPEED / "install.json").read_text(encoding="utf-8"))
    return wrapped(text(result))


SECTIONS = {"install": block}
