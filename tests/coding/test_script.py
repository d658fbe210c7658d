"""Scripts: what is played from one is what was written."""

from __future__ import annotations

import numpy as np

from hydraopt.codec import SHARED, ChunkWriter, Scribe, play, scripts_in
from hydraopt.codec.stream import HEAVY, Block, StreamWriter, quantise_block
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError, NumericalError
from tests.raising import raises


def blocks() -> list[Block]:
    rng = np.random.default_rng(3)
    # Levels that need one byte, two and four.
    return [quantise_block(scale * rng.standard_normal((50, 4))) for scale in (1, 300, 9e4)]


def tell(writer: StreamWriter, block: Block, count: int) -> None:
    writer.integer(Kind.COUNT, count)
    writer.run(Kind.EXPONENT, np.array([3, -200, 7]))
    writer.block(block, HEAVY)
    writer.integer(Kind.MODE, -count)


def test_a_played_script_gives_the_bytes_of_what_was_told() -> None:
    direct, played, scribe = ChunkWriter(most=200), ChunkWriter(most=200), Scribe()
    sizes = []
    for i, block in enumerate(blocks()):
        tell(direct, block, 1000 * i)
        direct.end_record(block.levels.size)
        tell(scribe, block, 1000 * i)
        sizes.append(len(scribe.script(i, 7)))
        tell(scribe, block, 1000 * i)
        ((whose, numbers, steps),) = scripts_in(scribe.script(SHARED, block.levels.size))
        assert (whose, numbers) == (SHARED, block.levels.size)
        play(steps, played)
        played.end_record(numbers)
    assert played.finish() == direct.finish()
    assert sizes == sorted(sizes)
    assert sizes[0] < 600  # a byte a number


def test_scripts_stand_one_after_the_other() -> None:
    scribe, data = Scribe(), b""
    for i in range(3):
        scribe.integer(Kind.COUNT, i)
        data += scribe.script(i, 10 * i)
    assert [(whose, numbers) for whose, numbers, _ in scripts_in(data)] == [
        (0, 0),
        (1, 10),
        (2, 20),
    ]
    assert list(scripts_in(b"")) == []


def test_what_no_reader_takes_is_refused_when_it_is_told() -> None:
    block = blocks()[0]
    huge = Block(block.levels, np.full_like(block.integers, 1 << 30), block.spreads)
    with raises(NumericalError, got="a number of 1073741824 steps"):
        Scribe().block(huge)


def test_damaged_scripts_are_refused() -> None:
    scribe = Scribe()
    tell(scribe, blocks()[0], 5)
    data = scribe.script(0, 1)
    for end in (1, 10, len(data) - 1):
        with raises(BundleFormatError, got="cut off"):
            list(scripts_in(data[:end]))
    ((_, _, steps),) = scripts_in(data)
    for end in (3, 30, len(steps) - 30):
        with raises(BundleFormatError, got="cut off"):
            play(steps[:end], ChunkWriter())
    with raises(BundleFormatError, got="step 9 of 5"):
        play(memoryview(b"\x09" + bytes(steps[1:])), ChunkWriter())
