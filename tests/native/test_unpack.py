"""The library's own inflate accepts what zlib accepts, with the same bytes, and nothing else."""

from __future__ import annotations

import random
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.native.conftest import ROOT, compiler

NATIVE = ROOT / "native"
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)


@pytest.fixture(scope="module")
def unpacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """native/tests/unpack.c, with sanitizers where the compiler has them."""
    made = tmp_path_factory.mktemp("unpack") / "unpack"
    sources = [
        NATIVE / "tests" / "unpack.c",
        *(NATIVE / "src" / "core" / f"{x}.c" for x in ("unpack", "base")),
    ]
    command = [
        compiler(),
        "-std=c99",
        "-O1",
        "-Wall",
        "-Werror",
        "-I",
        NATIVE / "include",
        *sources,
    ]
    sane = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for flags in (sane, []):
        if not subprocess.run([*command, *flags, "-o", made], check=False).returncode:
            return made
    pytest.fail("native/tests/unpack.c cannot be compiled")


def content(draw: random.Random, most: int = 40000) -> bytes:
    """Noise, few letters, runs, and what repeats from afar."""
    out = bytearray()
    for _ in range(draw.randrange(6)):
        size = min(most, draw.choice((1, 3, 30, 700, 5000, 40000)))
        way = draw.randrange(4)
        if way == 0:
            out += draw.randbytes(size)
        elif way == 1:
            out += bytes(draw.choices(b"aabbbbcd\x00", k=size))
        elif way == 2:
            out += draw.randbytes(draw.randrange(1, 4)) * size
        elif out:
            start = draw.randrange(len(out))
            out += out[start : start + size]
    return bytes(out)


def packed(draw: random.Random, data: bytes) -> bytes:
    """One stream of it, by any of zlib's ways, in one block or many."""
    way = draw.choice(STRATEGIES)
    packer = zlib.compressobj(draw.randrange(10), zlib.DEFLATED, draw.randrange(9, 16), 8, way)
    middle = draw.randrange(len(data) + 1)
    flush = draw.choice((zlib.Z_FULL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_NO_FLUSH))
    return (
        b"".join(
            (packer.compress(data[:middle]), packer.flush(flush), packer.compress(data[middle:]))
        )
        + packer.flush()
    )


def damaged(draw: random.Random, data: bytes) -> bytes:
    """Some bits of it changed, mostly at its start, where the codes stand; or cut, or longer."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = min(int(draw.expovariate(1 / 30)), len(out) - 1)
        out[at] ^= 1 << draw.randrange(8)
    if draw.random() < 0.2:
        del out[draw.randrange(len(out)) :]
    return bytes(out) + draw.randbytes(draw.choice((0, 0, 0, 1, 5)))


class Bits:
    """Bits of deflate: numbers lowest bit first, words of a code highest bit first."""

    def __init__(self) -> None:
        self.all: list[int] = []

    def put(self, value: int, count: int) -> None:
        self.all += [value >> i & 1 for i in range(count)]

    def word(self, word: str) -> None:
        self.all += map(int, word)

    def data(self) -> bytes:
        whole = sum(bit << i for i, bit in enumerate(self.all))
        return whole.to_bytes((len(self.all) + 7) // 8, "little")


def last_block(lengths: list[int], literals: int) -> Bits:
    """The head of a last block whose codes have these lengths, those of literals first."""
    bits = Bits()
    bits.put(0b101, 3)
    bits.put(literals - 257, 5)
    bits.put(len(lengths) - literals - 1, 5)
    bits.put(15, 4)
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
        bits.put(4 if symbol < 16 else 0, 3)
    for length in lengths:
        bits.word(f"{length:04b}")
    return bits


def handmade(draw: random.Random) -> bytes:
    """A last block of few symbols, as no compressor writes them: codes that are empty or not full,
    symbols that may mean nothing; what they code is chance. The first bytes are unusual as well."""
    literals, others = draw.choice((257, 260, 286, 287, 288)), draw.choice((1, 2, 30, 31, 32))
    lengths = [0] * (literals + others)
    used = draw.sample(range(256), draw.randrange(3)) + [256] * draw.randrange(2)
    used += draw.sample(range(257, literals), min(draw.randrange(2), literals - 257))
    for symbol, length in zip(used, draw.choice(((1, 1), (1, 2, 2), (2,) * 4)), strict=False):
        lengths[symbol] = length
    for symbol in draw.sample(range(others), min(draw.randrange(3), others)):
        lengths[literals + symbol] = draw.choice((1, 1, 2))
    bits = last_block(lengths, literals)
    bits.put(draw.getrandbits(40), 40)
    window, flags = draw.choice((0x78, 0x78, 0x88)), draw.choice((0, 0, 0, 32))
    return bytes((window, flags + -(window * 256 + flags) % 31)) + bits.data() + bytes(4)


def by_zlib(data: bytes, size: int) -> bytes | None:
    """The content, if the data is one stream of that many bytes and nothing else."""
    reader = zlib.decompressobj()
    try:
        out = reader.decompress(data, size + 1)
    except zlib.error:
        return None
    fine = reader.eof and len(out) == size and not reader.unused_data
    return out if fine else None


def mended(data: bytes) -> bytes:
    """The data with the checksum of what it holds, so that damage is judged by deflate alone."""
    reader = zlib.decompressobj(-15)
    try:
        out = reader.decompress(data[2:], 1 << 20)
    except zlib.error:
        return data
    end = len(data) - len(reader.unused_data)
    return data[:end] + zlib.adler32(out).to_bytes(4, "big") if reader.eof else data


def compare(unpacker: Path, cases: list[tuple[bytes, int]]) -> int:
    """How many were accepted; each of them by both and with the same bytes, or by neither."""
    sent = b"".join(
        len(data).to_bytes(4, "little") + size.to_bytes(4, "little") + data for data, size in cases
    )
    done = subprocess.run([unpacker], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    at = accepted = 0
    for number, (data, size) in enumerate(cases):
        expected = by_zlib(data, size)
        answer = b"\0"
        if expected is not None:
            accepted += 1
            answer = b"\1" + expected + zlib.crc32(expected).to_bytes(4, "little")
        assert done.stdout[at : at + len(answer)] == answer, (number, data[:300].hex(), size)
        at += len(answer)
    assert at == len(done.stdout)
    return accepted


@pytest.mark.slow
def test_sound_streams_are_unpacked(unpacker: Path) -> None:
    draw = random.Random(1)
    cases = []
    for _ in range(150):
        data = content(draw)
        cases.append((packed(draw, data), len(data)))
    assert compare(unpacker, cases) == len(cases)


def test_no_other_size_is_accepted(unpacker: Path) -> None:
    draw = random.Random(2)
    cases = []
    for _ in range(100):
        data = content(draw)
        cases += [
            (packed(draw, data), len(data) + more) for more in (-1, 1) if len(data) + more >= 0
        ]
    assert compare(unpacker, cases) == 0


def test_damage_is_judged_as_by_zlib(unpacker: Path) -> None:
    draw = random.Random(3)
    cases = []
    for number in range(1200):
        data = content(draw, 700)
        stream = damaged(draw, packed(draw, data)) if number % 2 else handmade(draw)
        if draw.random() < 0.8:
            stream = mended(stream)
        inner = zlib.decompressobj(-15)
        try:
            size = len(inner.decompress(stream[2:], 1 << 16))
        except zlib.error:
            size = len(data)
        cases.append((stream, size))
    accepted = compare(unpacker, cases)
    assert 30 < accepted < len(cases) - 30


@pytest.mark.slow
@pytest.mark.parametrize(("distance", "meant"), [("11101", 1), ("11110", 0), ("11111", 0)])
@pytest.mark.parametrize(
    ("length", "known"), [("0000001", 1), ("11000101", 1), ("11000110" + "000000", 0)]
)
def test_symbols_that_mean_nothing_are_refused(
    unpacker: Path, distance: str, meant: int, length: str, known: int
) -> None:
    """Whatever a reader took them for, all is one letter: some count of it would be right."""
    size = 33000
    bits = Bits()
    bits.put(0b011, 3)
    bits.word(length)
    bits.word(distance)
    bits.put(0, 13)
    bits.word("0000000")
    stored = (
        b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + b"x" * size
    )
    cases = []
    for more in range(3, 330):
        sum_ = zlib.adler32(b"x" * (size + more)).to_bytes(4, "big")
        cases.append((b"\x78\x01" + stored + bits.data() + sum_, size + more))
    assert compare(unpacker, cases) == meant * known


@pytest.mark.slow
@pytest.mark.parametrize("literals", [286, 287, 288])
@pytest.mark.parametrize("others", [30, 31, 32])
def test_codes_of_too_many_symbols_are_refused(unpacker: Path, literals: int, others: int) -> None:
    lengths = [0] * (literals + others)
    lengths[ord("x")] = lengths[256] = 1
    bits = last_block(lengths, literals)
    bits.word("01")
    stream = b"\x78\x01" + bits.data() + zlib.adler32(b"x").to_bytes(4, "big")
    assert compare(unpacker, [(stream, 1)]) == (literals == 286 and others == 30)
