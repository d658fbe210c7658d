"""The decoder in C that docs/reference/format.md points to reads what we write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hydraopt.codec import ChunkWriter
from hydraopt.codec.stream import quantise_block

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "decoder.c"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    binary = tmp_path_factory.mktemp("decoder") / "decoder"
    command = [compiler, "-O2", "-Wall", "-Werror", "-o", binary, SOURCE, "-lz"]
    subprocess.run(command, check=True)
    return binary


@pytest.mark.parametrize("spread", [0.3, 0.8, 3.0, 40.0, 5000.0])
def test_c_decoder_reads_the_same_integers(decoder: Path, tmp_path: Path, spread: float) -> None:
    rng = np.random.default_rng(int(spread * 10))
    x = rng.standard_normal((200, 5)) * spread * np.exp(rng.standard_normal((200, 1)) / 2)
    blocks = [quantise_block(x * factor) for factor in (1.0, 0.5, 2.0)]
    writer = ChunkWriter(most=0)
    for block in blocks:
        writer.block(block)
        writer.end_record(block.levels.size)
    stream = tmp_path / "stream"
    stream.write_bytes(writer.finish())
    done = subprocess.run([decoder, stream, "0", "200", "5"], check=True, capture_output=True)
    got = np.array([line.split() for line in done.stdout.decode().splitlines()], np.int64)
    expected = np.concatenate([block.values for block in blocks])
    assert np.array_equal(got, expected.astype(np.int64))


@pytest.mark.parametrize("place", [0, 1, 3, 5, 7, 11, 40, -1])
def test_c_decoder_refuses_a_flipped_bit(decoder: Path, tmp_path: Path, place: int) -> None:
    writer = ChunkWriter()
    writer.block(quantise_block(np.random.default_rng(0).standard_normal((50, 4)) * 9))
    writer.end_record(200)
    data = bytearray(writer.finish())
    data[place] ^= 1
    stream = tmp_path / "stream"
    stream.write_bytes(data)
    done = subprocess.run([decoder, stream, "0", "50", "4"], capture_output=True)
    assert done.returncode == 1
