"""Sound bundles of every form, class, dtype and layout, written from integers."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.hostile.forge import deflated, manifest_of, parts_of, seal
from hydraopt.bundle.container import INDEX_NAME
from hydraopt.coding.tables import Kind
from hydraopt.collection.splitting import split
from tests.bundle.golden.make import SECOND
from tests.conformance.forging import FINE, GOLDEN, Case, Verdict, golden
from tests.conformance.rans import Coder, stream
from tests.native.mutants import Pieces

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
RANGE = Verdict("ok", "range")
_DTYPES = {
    "U64": 8, "I64": 8, "F64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2,
    "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for folder in sorted((GOLDEN / "layouts").iterdir()):
        yield folder.name, golden(folder.name), FINE
    second = SECOND.read_bytes()
    yield "three-tasks", second, FINE
    yield from _folders()
    yield "no-tasks", bundle({"modules": {"path": []}, "tasks": {"name": []}}), FINE
    yield (
        "nothing-in-a-task",
        bundle({"modules": {"path": []}, "tasks": {"name": ["t"]}, "configs": [LORA]}),
        FINE,
    )
    yield "every-form", _every_form(), FINE
    yield "bases-of-one-side", _one_side(), FINE
    yield "every-class", _every_class(), FINE
    yield "largest-numbers", _largest(), RANGE
    yield "coded-tensors", _coded_tensors(), FINE
    yield "coded-in-two-blocks", _two_blocks(), FINE
    yield "carried-dtypes", _carried(), FINE
    yield "spelled-otherwise", _spelled(second), FINE


def bundle(manifest: Mapping[str, Any], **payload: bytes) -> bytes:
    """Return a bundle of this manifest; payload: tensors by name, with _ for the slash."""
    about = {"format": "hydraopt", "format_version": "2"}
    tensors = {name.replace("_", "/"): data for name, data in payload.items()}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return Pieces(about, text, {"shared": b"", **tensors}).pack()


def errors(count: int) -> str:
    """Return the errors of so many modules, each exactly 0."""
    return b64encode(b"\xff" * count).decode().rstrip("=")


def one_task(count: int, **columns: Any) -> dict[str, list[Any]]:
    """Return a table of the one task ``t``, which has so many modules."""
    row = {"name": "t", "content": 0, "errors": errors(count), "dtype": "F16", **columns}
    return {key: [value] for key, value in row.items()}


def levels(count: int, seed: int, most: int = 9) -> list[int]:
    """Return small integers that look random."""
    squares = (i * i * (2654435761 + seed) >> 12 for i in range(1, count + 1))
    return [x % (2 * most + 1) - most for x in squares]


def columns(n: int, k: int, seed: int, spread: int = 18) -> list[tuple[int, int, list[int]]]:
    """Return the columns of a block of N x k numbers of one class."""
    return [(spread, 0, levels(n, seed + j, 4)) for j in range(k)]


def basis(coder: Coder, n: int, q: int, seed: int) -> None:
    coder.side(Kind.COUNT, q)
    if q:
        coder.block(columns(n, q, seed))
        coder.list(Kind.EXPONENT, [-64 - 5 * i for i in range(q)])


def record(
    coder: Coder, m: int, n: int, k: int, ways: tuple[int, int], q: tuple[int, int], seed: int
) -> None:
    """Append the record of a module; ways, q: of the left and right side."""
    coder.side(Kind.COUNT, k)
    if any(q):
        coder.side(Kind.MODE, 3 * ways[0] + ways[1])
    for length, way, width in ((n, ways[1], q[1]), (m, ways[0], q[0])):
        if way:
            coder.block(columns(width, k, seed + 1, 20), shape=1)
        if way != 1:
            coder.block(columns(length, k, seed + 2))
    coder.list(Kind.EXPONENT, [-200 + 7 * i for i in range(k)])


def with_bases(rows: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> bytes:
    """Return a bundle with a module for each row: widths of its bases, ways of its sides."""
    m, n, k = 6, 9, 2
    shared, own = [], []
    for i, (q, ways) in enumerate(rows):
        coder = Coder()
        basis(coder, m, q[0], i)
        basis(coder, n, q[1], i + 100)
        shared.append((1, m * q[0] + n * q[1], coder.finish()))
        coder = Coder()
        record(coder, m, n, k, ways, q, i)
        own.append((1, k * (m + n), coder.finish()))
    manifest = {
        "modules": {
            "path": [f"h.{i}.q" for i in range(len(rows))],
            "m": {"=": m},
            "n": {"=": n},
        },
        "tasks": one_task(len(rows)),
        "configs": [LORA],
    }
    return bundle(manifest, shared=stream(*shared), task_0=stream(*own))


def _every_form() -> bytes:
    return with_bases([((3, 2), ways) for ways in itertools.product(range(3), repeat=2)])


def _one_side() -> bytes:
    return with_bases([((3, 0), (1, 0)), ((0, 2), (0, 2)), ((0, 0), (0, 0))])


def _every_class() -> bytes:
    """Return a bundle with a coded tensor whose columns have all classes in all shapes."""
    kinds = [*itertools.product(range(82), range(3))]
    size, rows = len(kinds), [0, 1, 100, 244, 245]
    coder = Coder()
    coder.side(Kind.COUNT, 1 + 8)
    coder.list(Kind.EXPONENT, [-320])
    coder.side(Kind.COUNT, 5)
    coder.side(Kind.COUNT, len(rows))
    coder.list(Kind.COUNT, rows)
    block = []
    for spread, shape in kinds:
        most = min(max(spread, 1), 20) << max((spread - 14) // 4, 0)  # some beyond the symbols
        block.append((spread, shape, levels(len(rows), spread, most)))
    coder.block(block)
    tensors = {"key": ["w"], "shape": [[size, size]], "kind": ["tuner_ones"], "dtype": ["F32"]}
    manifest = {
        "modules": {"path": []},
        "tensors": tensors,
        "tasks": one_task(0, tensors="all", tensor_errors=errors(1)),
        "configs": [{"peft_type": "IA3"}],
    }
    return bundle(manifest, task_0=stream((1, size * size, coder.finish())))


def _largest() -> bytes:
    """Return a bundle with the largest integers and exponents of both signs."""
    coder = Coder()
    coder.side(Kind.COUNT, 3)
    for sign in (1, -1):
        half = sign << 26
        coder.block([(81, 0, [half]), (18, 2, [half]), (1, 1, [half])])
    coder.list(Kind.EXPONENT, [6400, -6400, 0])
    manifest = {
        "modules": {"path": ["h.0.q"], "m": [1], "n": [1]},
        "tasks": one_task(1),
        "configs": [LORA],
    }
    return bundle(manifest, task_0=stream((1, 6, coder.finish())))


def _coded_tensors() -> bytes:
    """Return a bundle with coded tensors of every dtype and of what a record may have."""
    dtypes = ("F16", "BF16", "F32", "F64")
    shapes: list[list[int]] = [[3, 2, 4], [5, 2], [7], []]
    shared, own = Coder(), Coder()
    numbers = 0
    entries = [*itertools.product(dtypes, enumerate(shapes))]
    for i, (_, (which, shape)) in enumerate(entries):
        size, first = 1, shape[0] if shape else 1
        for axis in shape:
            size *= axis
        n, k = sorted((first, size // first), reverse=True)
        common = which < 2
        shared.side(Kind.COUNT, (1, 17, 0, 0)[which])
        own.side(Kind.COUNT, (1 + 4, 1 + 2 + 4 + 8, 1 + 16, 2)[which])
        if which in (1, 3):
            record(own, n, k, 1, (0, 0), (0, 0), i)
            numbers += n + k
        for coder, has in ((shared, common), (own, which < 3)):
            if not has:
                continue
            coder.list(Kind.EXPONENT, [-90 if coder is shared else 500 * (which == 0) - 100])
            coder.side(Kind.COUNT, i % 8)
            rows = n
            if coder is own and which == 1:
                rows = 2
                coder.side(Kind.COUNT, rows)
                coder.list(Kind.COUNT, [1, 4])
            if (which == 1) if coder is shared else (which == 2):
                coder.list(Kind.COUNT, [-30 + 40 * j for j in range(k)])
            coder.block(columns(rows, k, i, 25))
        numbers += size
    common_numbers = sum((24, 12)[which] for _, (which, _) in entries if which < 2)
    kinds = ["saved", "tuner_ones", "bias", "token_rows"]
    manifest = {
        "modules": {"path": []},
        "tensors": {
            "key": [f"x.{i}" for i in range(len(entries))],
            "dtype": [dtype for dtype, _ in entries],
            "shape": [shape for _, (_, shape) in entries],
            "kind": [kinds[which] for _, (which, _) in entries],
        },
        "tasks": one_task(0, tensors="all", tensor_errors=errors(len(entries))),
        "configs": [LORA],
    }
    return bundle(
        manifest,
        shared=stream((len(entries), common_numbers, shared.finish())),
        task_0=stream((len(entries), numbers, own.finish())),
    )


def _two_blocks() -> bytes:
    """Return a bundle with a coded tensor of more rows than a block has."""
    size = (1 << 20) + 3
    coder = Coder()
    coder.side(Kind.COUNT, 1 + 16)
    coder.list(Kind.EXPONENT, [-64])
    coder.side(Kind.COUNT, 0)
    coder.list(Kind.COUNT, [1])
    coder.block([(0, 0, [])])
    coder.block([(5, 0, [1, -2, 0])])
    manifest = {
        "modules": {"path": []},
        "tensors": {"key": ["w"], "shape": [[size]], "dtype": ["F16"]},
        "tasks": one_task(0, tensors="all", tensor_errors=errors(1)),
        "configs": [LORA],
    }
    return bundle(manifest, task_0=stream((1, size, coder.finish())))


def _carried() -> bytes:
    """Return a lossless task with tensors of every dtype, a copy, no numbers, and no axes."""
    items: list[tuple[str, str, list[int], int | None]] = [
        (dtype, dtype, [3], None) for dtype in sorted(_DTYPES)
    ]
    items += [("copy", "I32", [3], sorted(_DTYPES).index("F32")), ("none", "F16", [2, 0], None)]
    items.append(("one", "F32", [], None))
    bytes_of = {dtype: 3 * width for dtype, width in _DTYPES.items()} | {"one": 4}
    size = sum(bytes_of.get(key, 0) for key, *_ in items)
    content = bytes(x % 2 for x in levels(size, 5))  # 0 and 1, as a BOOL has
    names = ("key", "dtype", "shape", "of")
    manifest = {
        "modules": {"path": []},
        "blobs": [dict(zip(names, map(list, zip(*items, strict=True)), strict=True))],
        "tasks": one_task(0, content=None, lossless=True, carried=[0], metadata={"format": "pt"}),
        "configs": [LORA],
    }
    packed = len(content).to_bytes(4, "little") + zlib.compress(content, 9)
    return bundle(manifest, carried_0=packed)


def _spelled(data: bytes) -> bytes:
    """Return a bundle with another spelling of its manifest and a padded header."""
    pieces = Pieces.of(data)
    whole = json.loads(pieces.text)
    text = json.dumps(dict(reversed(whole.items())), indent=1)
    pieces.text = text.replace("h.0", "h\\u002e0").encode()
    made = pieces.pack()
    length = int.from_bytes(made[:8], "little")
    padding = b" " * (-length % 8 + 8)
    head = (length + len(padding)).to_bytes(8, "little") + made[8 : 8 + length] + padding
    return head + made[8 + length :]


def _folders() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        split(SECOND, folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    files.pop(INDEX_NAME)  # it has times
    yield "apart", files, FINE
    some = {name: data for name, data in files.items() if "fr" not in name}
    yield "apart-without-a-task", some, FINE
    yield "apart-with-a-damaged-index", {**files, INDEX_NAME: b"x"}, FINE
    fr, core = "fr.task.safetensors", "second.core.safetensors"
    damaged = Verdict("damaged", None, "R30")
    yield "apart-of-another-core", {**files, fr: _marked(files[fr], core="0" * 16)}, damaged
    yield "apart-twice", {**files, f"x{fr}": files[fr]}, damaged
    optional = {core: _marked(files.pop(core), _more="x")}
    about = parts_of(optional[core])[0]["__metadata__"]
    digest = hashlib.sha256(about["checksums"].encode()).hexdigest()[:16]
    optional |= {name: _marked(data, core=digest, _more="x") for name, data in files.items()}
    yield "apart-with-optional-keys", optional, FINE


def _marked(data: bytes, **keys: str) -> bytes:
    """Return a file with these keys in its metadata; optional ones also in its manifest."""
    header, parts = parts_of(data)
    header["__metadata__"] |= keys
    optional = {key: value for key, value in keys.items() if key.startswith("_")}
    parts[0] = deflated(json.dumps({**manifest_of(parts[0]), **optional}).encode())
    return seal(header, parts)
