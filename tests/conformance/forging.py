"""Sound bundles with one thing changed and right checksums, and what a reader says of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.native.mutants import Pieces

GOLDEN = Path(__file__).parents[1] / "bundle" / "golden"
SUFFIX = ".hydra.safetensors"
PREFIX = "base_model.model."
BIAS = f"{PREFIX}h.0.q.lora_B.bias"
HEAD = f"{PREFIX}head.weight"

Change = Callable[[dict[str, Any], dict[str, bytes]], None]
"""Changes a manifest, and the tensors beside it."""


@dataclass(frozen=True)
class Verdict:
    """What a reader says of a bundle, in the words of conformance/README.md.

    verify: of the whole file. adapter: of the one task; None if the file does not open.
    ground: why it is refused, as the specification numbers grounds. lacking: parts of a task for
    which a reader may answer "unsupported".
    """

    verify: str = "ok"
    adapter: str | None = "ok"
    ground: str = ""
    lacking: tuple[str, ...] = ()


Case = tuple[str, bytes | Mapping[str, bytes], Verdict]
"""A name, a file or the files of a folder, and the verdict."""

FINE = Verdict()
NO = Verdict("unsupported", "unsupported")


def damaged(ground: int) -> Verdict:
    """Return the verdict of a file that does not open."""
    return Verdict("damaged", None, f"R{ground}")


def broken(ground: int) -> Verdict:
    """Return the verdict of a file that opens, but whose one task cannot be read."""
    return Verdict("damaged", "damaged", f"R{ground}")


def golden(name: str) -> bytes:
    """Return a golden bundle of one task."""
    return (GOLDEN / "layouts" / name / f"bundle{SUFFIX}").read_bytes()


def forged(
    name: str,
    change: Change | None = None,
    *,
    header: Callable[[bytes], bytes] = lambda data: data,
    about: dict[str, str] | None = None,
    **config: Any,
) -> bytes:
    """A golden bundle with a changed manifest, payload or config; ... takes a setting away."""
    pieces = Pieces.of(golden(name))
    whole = json.loads(pieces.text)
    settings = {**whole["configs"][0], **config}
    whole["configs"][0] = {key: x for key, x in settings.items() if x is not ...}
    if change is not None:
        change(whole, pieces.payload)
    pieces.text = json.dumps(whole, separators=(",", ":")).encode()  # keys as they are put
    pieces.metadata |= about or {}
    return header(pieces.pack())


def tasks(**columns: Any) -> Change:
    """Other values of the one task."""
    return lambda whole, _: whole["tasks"].update({key: [x] for key, x in columns.items()})


def modules(**columns: Any) -> Change:
    return lambda whole, _: whole["modules"].update(columns)


def carried(tensors: dict[str, tuple[str, list[int], bytes]], **columns: Any) -> Change:
    """The task with these carried tensors (dtype, shape, bytes) and no others."""

    def change(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
        rows = list(tensors.values())
        whole["blobs"] = [
            {"key": list(tensors), "dtype": [x[0] for x in rows], "shape": [x[1] for x in rows]}
        ]
        planes = b""
        for width in (8, 4, 2, 1):
            joined = b"".join(x[2] for x in rows if WIDTHS[x[0]] == width)
            planes += b"".join(joined[i::width] for i in range(width))
        payload["carried/0"] = len(planes).to_bytes(4, "little") + zlib.compress(planes, 9)
        whole["tasks"].update({"carried": [[0]], **{key: [x] for key, x in columns.items()}})

    return change


WIDTHS = {"U8": 1, "F8_E4M3": 1, "F16": 2, "F32": 4, "F64": 8}
A, B = f"{PREFIX}h.0.q.lora_A.weight", f"{PREFIX}h.0.q.lora_B.weight"
PAIR = {A: ("F16", [2, 8], bytes(32)), B: ("F16", [6, 2], bytes(24))}


def lossless(tensors: dict[str, tuple[str, list[int], bytes]], **columns: Any) -> Change:
    def change(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
        del payload["task/0"]
        whole["modules"] = {"path": []}
        own = {"content": None, "lossless": True, "errors": "", **columns}
        carried(tensors, **own)(whole, payload)

    return change


def together(*changes: Change) -> Change:
    def change(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
        for each in changes:
            each(whole, payload)

    return change


def more(name: str, table: str = "") -> Change:
    """A key of this name in the manifest, or a column in a table of it."""

    def change(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        of = whole[table] if table else whole
        (of[0] if table == "blobs" else of)[name] = {"=": "x"}

    return change
