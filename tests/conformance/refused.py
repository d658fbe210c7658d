"""Bundles whose header or manifest a reader refuses: grounds 1 to 16 of format.md, section 8."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.hostile.forge import deflated, seal
from hydraopt.bundle.container import deflate
from tests.conformance.forging import (
    Case,
    Change,
    carried,
    damaged,
    forged,
    golden,
    modules,
    tasks,
    together,
)
from tests.conformance.rans import Coder
from tests.conformance.sound import errors
from tests.native.mutants import Pieces

Records = Callable[[Coder], None]


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for ground, found in (
        (1, _containers()), (3, _tensors()), (4, _checksums()), (5, _metadata()), (6, _deflated()),
        (7, _texts()), (8, _tables()), (9, _values()), (9, _paths()), (10, _twice()),
        (11, _indices()), (12, _order()), (13, _contents()), (14, _configs()),
        (15, _copies()), (16, _long()),
    ):  # fmt: skip
        for name, data in found:
            yield f"r{ground:02}-{name}", data, damaged(ground)


Found = Iterator[tuple[str, bytes]]


def _header(change: Callable[[dict[str, Any]], None], name: str = "linear") -> bytes:
    """Return a golden bundle with another header, which still fits its length."""
    data = golden(name)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _containers() -> Found:
    data = golden("linear")
    yield "empty", b""
    yield "header-beyond-the-file", (1 << 30).to_bytes(8, "little") + data[8:]
    yield "header-no-object", (2).to_bytes(8, "little") + b"[]" + data[8:]
    for name, entry in (
        ("more-keys", {"x": 1}), ("size-of-another-shape", {"shape": [3]}),
        ("offset-negative", {"data_offsets": [-1, 0]}), ("offset-fraction", {"shape": [1.5]}),
    ):  # fmt: skip
        yield name, _header(lambda header, entry=entry: header["shared"].update(entry))

    def overlap(header: dict[str, Any]) -> None:
        size = header["task/0"]["shape"][0]
        header["task/0"]["data_offsets"] = [0, size]

    yield "overlap", _header(overlap)


def _tensors() -> Found:
    def dtype(header: dict[str, Any]) -> None:
        header["manifest"]["dtype"] = "I8"

    yield "not-u8", _header(dtype)

    def axes(header: dict[str, Any]) -> None:
        header["manifest"]["shape"].append(1)

    yield "two-axes", _header(axes)
    for name in ("shared", "task/0"):

        def without(_: dict[str, Any], payload: dict[str, bytes], name: str = name) -> None:
            del payload[name]

        yield f"without-{name.replace('/', '-')}", forged("linear", without)

    def order(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        payload["shared"] = payload.pop("shared")

    yield "in-another-order", forged("linear", order)


def _checksums() -> Found:
    for name, value in (
        ("missing", None), ("too-few", "[]"), ("no-list", "{}"), ("of-numbers", "[1,2,3]"),
        ("no-json", "["),
    ):  # fmt: skip

        def change(header: dict[str, Any], value: str | None = value) -> None:
            header["__metadata__"]["checksums"] = value
            if value is None:
                del header["__metadata__"]["checksums"]

        yield f"checksums-{name}", _header(change)


def _metadata() -> Found:
    for name, key, value in (
        ("other-tasks", "tasks", '["x"]'), ("spaces-in-tasks", "tasks", '[ "linear"]'),
        ("another-base-model", "base_model", "org/other"),
    ):  # fmt: skip
        yield (
            name,
            _header(
                lambda header, key=key, value=value: header["__metadata__"].update({key: value})
            ),
        )


def _with_manifest(pack: Callable[[bytes], bytes], name: str = "linear") -> bytes:
    """Return a golden bundle with another ``manifest``, made from its JSON."""
    pieces = Pieces.of(golden(name))
    header: dict[str, Any] = {
        "__metadata__": pieces.metadata, "manifest": {}, **dict.fromkeys(pieces.payload)
    }  # fmt: skip
    return seal(header, [pack(pieces.text), *pieces.payload.values()])


def _deflated() -> Found:
    yield "short", _with_manifest(lambda text: b"abc")
    yield "no-zlib", _with_manifest(lambda text: deflated(text)[:4] + b"no zlib stream")
    yield "cut-off", _with_manifest(lambda text: deflated(text)[:-1])
    yield "followed", _with_manifest(lambda text: deflated(text) + b"\0")
    for name, less in (("more-than-stated", 1), ("less-than-stated", -1)):
        yield (
            name,
            _with_manifest(
                lambda text, less=less: (
                    (len(text) - less).to_bytes(4, "little") + deflated(text)[4:]
                )
            ),
        )
    yield "another-adler", _with_manifest(lambda text: deflated(text)[:-1] + b"\0")


def _texts() -> Found:
    def replaced(old: bytes, new: bytes) -> bytes:
        return _with_manifest(lambda text: deflated(text.replace(old, new, 1)))

    yield "no-json", _with_manifest(lambda text: deflated(text[:-1]))
    yield "no-utf-8", replaced(b"org/tiny", b"org/\xff")
    yield "a-key-twice", replaced(b'"configs":', b'"blobs":[],"blobs":[],"configs":')
    yield "nan", replaced(b'"configs":', b'"recipe":{"x":NaN},"configs":')
    yield "beyond-a-double", replaced(b'"configs":', b'"recipe":{"x":1e999},"configs":')
    yield "surrogate", replaced(b'"configs":', b'"recipe":{"x":"\\ud800"},"configs":')
    yield "control-character", replaced(b'"configs":', b'"recipe":{"x":"\n"},"configs":')
    yield "zero-before-digits", replaced(b'"configs":', b'"recipe":{"x":01},"configs":')
    yield "a-comma-at-the-end", replaced(b'"configs":', b'"recipe":{"x":1,},"configs":')


def _tables() -> Found:
    yield "short-column", forged("linear", modules(m=[6]))
    yield "column-of-no-list", forged("linear", modules(m=6))
    yield "column-of-another-object", forged("linear", modules(m={"=": 6, "x": 1}))

    def lead(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        del whole["modules"]["path"]

    yield "without-its-lead-column", forged("linear", lead)


def _values() -> Found:
    for i, (column, value) in enumerate((
        ("m", 0), ("m", (1 << 24) + 1), ("m", 6.0), ("m", True), ("kind", "Linear"),
        ("layout", "column"), ("groups", 0), ("group", 1), ("a_tail", [2]), ("path", ""),
        ("path", "a\u200bb"), ("path", "x" * 4097),
    )):  # fmt: skip
        cells = [value, {"m": 5, "path": "h.0.v"}.get(column, {"a_tail": []}.get(column))]
        defaults = {"kind": "linear", "layout": "plain", "groups": 1, "group": 0}
        cells[1] = defaults.get(column, cells[1])
        yield f"module-{column}-{i}", forged("linear", modules(**{column: cells}))
    for i, (column, value) in enumerate((
        ("dtype", "F31"), ("format", "other"), ("errors", "/w="), ("errors", "/"), ("error", -1),
        ("error", "0"), ("numbers", -1), ("numbers", (1 << 50) + 1), ("lossless", 0),
        ("config", -1), ("notes", ["a", 1]),
        ("metadata", {"a": 1}), ("harm", [2, 1, 0.5, 0.1, True]), ("harm", [0, 1, 2.0, 0.1, True]),
        ("harm", [0, 1, 0.5, 0.1]), ("added", ["2026-02-30", "0" * 16]),
        ("added", ["2026-02-03", "0" * 15 + "A"]), ("keys", [[0, "C", "x"]]),
        ("base_model", ""), ("extra_kinds", {"x": "other"}),
    )):  # fmt: skip
        yield f"task-{column}-{i}", forged("linear", tasks(**{column: value}))
    for i, (column, value) in enumerate((
        ("dtype", "I32"), ("shape", [0, 8]), ("shape", [1] * 65), ("kind", "exact!"),
        ("base", "0123"),
    )):  # fmt: skip

        def change(whole: dict[str, Any], _: Any, x: tuple[str, Any] = (column, value)) -> None:
            cells = {"dtype": "BF16", "shape": [3], "kind": "saved", "base": None}
            whole["tensors"][x[0]] = [x[1], cells[x[0]]]

        yield f"tensor-{column}-{i}", forged("coded", change)


def _doubled(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table with its first row twice."""
    return {key: x if "=" in x else [x[0], x[0]] for key, x in table.items()}


def _paths() -> Found:
    nine = modules(a_tail=[[1] * 9])
    yield "kernel-of-nine-axes", forged("conv", nine)
    for name, path in (
        ("without-a-slot", "qkv"),
        ("of-a-word", "qkv::a"),
        ("long", "qkv::00000000"),
    ):
        yield f"slot-{name}", forged("fused", modules(path=[path, "h.0.qkv::2"]))
    for name, path in (("of-no-factor", "q"), ("of-w3", "q::w3"), ("of-another-size", "q::w1.1x1")):
        yield f"path-{name}", forged("loha", modules(path=[path, "h.0.q::w2"]))


def _twice() -> Found:
    yield "module-twice", forged("linear", modules(path=["h.0.q", "h.0.q"], m=[6, 6]))

    def tensors(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        whole["tensors"] = _doubled(whole["tensors"])

    yield "coded-tensor-twice", forged("coded", tensors)

    def task(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        whole["tasks"] = _doubled(whole["tasks"])

    yield "task-twice", forged("linear", task)


def _indices() -> Found:
    for i, (column, value) in enumerate((
        ("config", 1), ("carried", [1]), ("carried", [0, 0]), ("modules", [0, 1, 1, 2]),
        ("modules", [0, 3]), ("modules", [1, 1]), ("tensors", [0, 1]),
        ("keys", [[2, "A", "x"]]), ("bias_scales", {"x": 1}), ("extra_kinds", {"x": "saved"}),
    )):  # fmt: skip
        yield f"{column}-{i}", forged("bias", tasks(**{column: value}))


def _tasks(**columns: list[Any]) -> Change:
    """Return a change to two tasks of one stream and two configs."""

    def change(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        table = _doubled(whole["tasks"])
        whole["tasks"] = {**table, "name": ["a", "b"], "config": [0, 1], **columns}
        whole["configs"].append({"set": {"r": 9}})

    return change


def _order() -> Found:
    yield "tasks", forged("linear", _tasks(name=["b", "a"]))
    yield "configs", forged("linear", _tasks(config=[1, 0]))
    yield "an-unused-config", forged("linear", _tasks(config=[0, 0]))

    def equal(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        whole["configs"][1] = {}

    yield "equal-configs", forged("linear", together(_tasks(), equal))
    other = _tasks(modules=["all", [0, 1]], errors=[errors(2), errors(1)])
    yield "other-modules-of-one-stream", forged("linear", other)

    def second(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        payload["task/1"] = payload["task/0"]

    yield "streams", forged("linear", together(_tasks(content=[1, 0]), second))


def _contents() -> Found:
    yield "coded-without-a-stream", forged("linear", tasks(content=None))
    yield "stream-of-nothing", forged("linear", tasks(modules=[], errors=""))
    yield "too-few-errors", forged("linear", tasks(errors=errors(1)))
    yield "too-many-tensor-errors", forged("linear", tasks(tensor_errors=errors(1)))
    yield "lossless-with-a-stream", forged("linear", tasks(lossless=True))


def _configs() -> Found:
    for name, value in (
        ("no-object", []), ("another-key", {"set": {}, "x": 1}), ("drop-of-none", {"drop": ["x"]}),
        ("set-no-object", {"set": []}), ("drop-of-a-number", {"drop": [1]}),
    ):  # fmt: skip

        def change(whole: dict[str, Any], _: Any, value: Any = value) -> None:
            whole["configs"][1] = value

        yield name, forged("linear", together(_tasks(), change))


def _copies() -> Found:
    pair = {"x": ("F16", [2], b"abcd"), "y": ("F16", [2], b"")}
    for name, of, dtype, shape in (
        ("itself", [None, 1], "F16", [2]), ("later", [1, None], "F16", [2]),
        ("of-another-size", [None, 0], "F16", [3]), ("of-another-width", [None, 0], "U8", [4]),
        ("negative", [None, -1], "F16", [2]),
    ):  # fmt: skip

        def change(whole: dict[str, Any], _: Any, x: Any = (of, dtype, shape)) -> None:
            whole["blobs"][0].update(of=x[0], dtype=["F16", x[1]], shape=[[2], x[2]])

        yield name, forged("linear", together(carried(pair), change))


def _long() -> Found:
    yield "long-manifest", _with_manifest(lambda text: deflate(text + b" " * (5 << 18)))
