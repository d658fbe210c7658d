"""Damaged bundles whose checksums are right, so that what reads them has to see the damage.

    python -m tests.native.mutants HYDRA COUNT [SEED]     the command against hydraopt, over COUNT

Both accept a mutant or both refuse it: it prints each on which they differ, and how many they
accepted. A mutant is told by its number and the seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydraopt.coding.chunks import Chunk, pack_table, read_table
from hydraopt.collection.opening import verify_bundle

GOLDEN = Path(__file__).resolve().parents[1] / "bundle" / "golden"


@dataclass
class Pieces:
    """A bundle taken apart. text: the manifest's JSON.  payload: the tensors behind it, by name."""

    metadata: dict[str, str]
    text: bytes
    payload: dict[str, bytes]

    @classmethod
    def of(cls, data: bytes) -> Pieces:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__")
        rest = data[8 + length :]
        payload = {name: rest[slice(*x["data_offsets"])] for name, x in header.items()}
        return cls(metadata, zlib.decompress(payload.pop("manifest")[4:]), payload)

    def pack(self) -> bytes:
        """The file, with checksums that are right and task names as the manifest has them."""
        manifest = len(self.text).to_bytes(4, "little") + zlib.compress(self.text, 9)
        payload = {"manifest": manifest, **self.payload}
        sums = [hashlib.sha256(x).hexdigest()[:16] for x in payload.values()]
        about = {**self.metadata, "checksums": json.dumps(sums, separators=(",", ":"))}
        try:
            names = json.loads(self.text)["tasks"]["name"]
            about["tasks"] = json.dumps(names, ensure_ascii=False, separators=(",", ":"))
        except (ValueError, KeyError, TypeError, UnicodeError):
            pass
        header: dict[str, object] = {"__metadata__": about}
        position = 0
        for name, piece in payload.items():
            offsets = [position, position + len(piece)]
            header[name] = {"dtype": "U8", "shape": [len(piece)], "data_offsets": offsets}
            position += len(piece)
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        head = text.encode("utf-8", "surrogatepass")
        return len(head).to_bytes(8, "little") + head + b"".join(payload.values())


def sources() -> list[bytes]:
    """The sound bundles that mutants are made of: golden files of the present version."""
    files = [GOLDEN / "second.hydra.safetensors", *sorted(GOLDEN.glob("layouts/*/*.safetensors"))]
    return [file.read_bytes() for file in files]


def mutant(number: int, seed: int, sound: Sequence[bytes]) -> bytes:
    """The mutant of that number."""
    draw = random.Random(f"{seed} {number}")
    data = draw.choice(sound)
    ways = (_bytes, _text, _values, _values, _stream, _stream, _table)
    return draw.choice(ways)(draw, data)


def _flipped(draw: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not out:
            return bytes(draw.randbytes(draw.randrange(4)))
        at = draw.randrange(len(out))
        way = draw.randrange(4)
        if way == 0:
            out[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            out[at] = draw.randrange(256)
        elif way == 2:
            del out[at : at + draw.randrange(1, 5)]
        else:
            out[at:at] = draw.randbytes(draw.randrange(1, 5))
    return bytes(out)


def _bytes(draw: random.Random, data: bytes) -> bytes:
    return _flipped(draw, data)


def _text(draw: random.Random, data: bytes) -> bytes:
    pieces = Pieces.of(data)
    pieces.text = _flipped(draw, pieces.text)
    return pieces.pack()


_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1.0, 0.5, -0.5, 1e308, 2**24, 2**24 + 1, 2**31, 2**63,
    10**30, "", "all", "F16", "lora_bias", "A", "AAAA", "A===", "a\u200bb", "x" * 4097, [], [0],
    [0, 1], [1, 0], [[]], {}, {"=": 1}, {"=": "all"}, {"set": {}}, {"drop": ["r"]}, "conv", "rows",
    "experts", "factor", "embedding", [3, 3], 255, "::w1", "tuner_ones",
    ["2026-11-26", "0123456789abcdef"], ["2026-02-30", "0123456789abcdef"], ["2026-11-26", "0"],
)  # fmt: skip


def _values(draw: random.Random, data: bytes) -> bytes:
    """A value of the manifest exchanged, left out, or one more."""
    pieces = Pieces.of(data)
    whole = json.loads(pieces.text)
    for _ in range(draw.choice((1, 1, 2))):
        inner: Any = whole
        for _ in range(draw.randrange(1, 6)):
            if isinstance(inner, dict) and inner:
                key: Any = draw.choice(sorted(inner))
            elif isinstance(inner, list) and inner:
                key = draw.randrange(len(inner))
            else:
                break
            below = inner[key]
            if not isinstance(below, dict | list) or draw.random() < 0.2:
                _exchange(draw, inner, key)
                break
            inner = below
    pieces.text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    return pieces.pack()


def _exchange(draw: random.Random, inner: Any, key: Any) -> None:
    assert isinstance(inner, dict | list)
    way = draw.randrange(5)
    if way == 0:
        del inner[key]
    elif way == 1 and isinstance(inner, list):
        inner.insert(draw.randrange(len(inner) + 1), draw.choice(_ODD))
    elif way == 2 and isinstance(inner, dict):
        names = ("more", "=", "harm", "keys", "modules", "of", "added")
        inner[draw.choice(names)] = draw.choice(_ODD)
    elif way == 3 and type(inner[key]) is int:
        inner[key] += draw.choice((-1, 1, 100))
    else:
        inner[key] = draw.choice(_ODD)


def _streams(pieces: Pieces) -> list[str]:
    return [name for name, x in pieces.payload.items() if not name.startswith("carried") and x]


def _chunks(data: bytes) -> tuple[list[Chunk], int]:
    """The table of a sound stream."""
    count = data[0]
    assert count < 128
    for records in range(1 << 12):
        try:
            return read_table(memoryview(data), records, _raise)
        except ValueError:
            continue
    raise AssertionError("no table")


def _raise(what: str) -> NoReturn:
    raise ValueError(what)


def _stream(draw: random.Random, data: bytes) -> bytes:
    """Other bytes in a chunk, with a table that fits them."""
    pieces = Pieces.of(data)
    names = _streams(pieces)
    if not names:
        return _text(draw, data)
    name = draw.choice(names)
    chunks, start = _chunks(pieces.payload[name])
    which, bodies, at = draw.randrange(len(chunks)), [], start
    for i, chunk in enumerate(chunks):
        body = pieces.payload[name][at : at + chunk.size]
        at += chunk.size
        if i == which:
            body = _flipped(draw, body)
            numbers = chunk.numbers + draw.choice((0, 0, 0, 0, 1, -1, 100)) * (chunk.numbers > 0)
            chunks[i] = Chunk(chunk.records, max(numbers, 0), len(body), zlib.crc32(body))
        bodies.append(body)
    pieces.payload[name] = b"".join([pack_table(chunks), *bodies])
    return pieces.pack()


def _table(draw: random.Random, data: bytes) -> bytes:
    """Other bytes in a table of chunks, or a blob; the table's own checksum is right."""
    pieces = Pieces.of(data)
    names = _streams(pieces)
    if not names or draw.random() < 0.2:
        for name in pieces.payload:
            if name.startswith("carried"):
                pieces.payload[name] = _flipped(draw, pieces.payload[name])
        return pieces.pack()
    name = draw.choice(names)
    _, start = _chunks(pieces.payload[name])
    table = _flipped(draw, pieces.payload[name][: start - 4])
    crc = zlib.crc32(table).to_bytes(4, "little")
    pieces.payload[name] = table + crc + pieces.payload[name][start:]
    return pieces.pack()


def command_accepts(hydra: str, path: Path) -> tuple[bool, str]:
    """Whether ``hydra verify`` does, and what it says; raises if it ends as it must not."""
    done = subprocess.run([hydra, "verify", path], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or "ERROR: " in done.stderr:
        raise AssertionError(f"exit {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def compare(hydra: str, count: int, seed: int = 0) -> tuple[int, list[str]]:
    """How many of ``count`` mutants both accept, and a line for each on which they differ."""
    sound, accepted, differing = sources(), 0, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.hydra.safetensors"
        for number in range(count):
            path.write_bytes(mutant(number, seed, sound))
            ours = verify_bundle(path)
            theirs, text = command_accepts(hydra, path)
            accepted += ours.ok and theirs
            if ours.ok != theirs:
                said = "; ".join(ours.problems)[:300] or "sound"
                differing.append(f"mutant {number} of seed {seed}: {said} | {text[:300]}")
    return accepted, differing


if __name__ == "__main__":
    both, lines = compare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)
    print(*lines, sep="\n")
    print(f"{sys.argv[2]} mutants: both accept {both}, differ on {len(lines)}")
