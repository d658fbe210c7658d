"""No adapter file makes its reader take what the file only claims."""

from __future__ import annotations

import pickle
import re
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import pack
from hypothesis import given, strategies as st

from hydraopt.adapters import MOST_NUMBERS, ScaleRule, open_tensors, resolved_config, written_config
from hydraopt.adapters.settings import Patience, exact_pattern, finds, match
from hydraopt.bundle.entries import MAX_RAW
from hydraopt.errors import AdapterFormatError
from hydraopt.files import strict_json
from tests.limited import run_limited
from tests.raising import raises

torch = pytest.importorskip("torch")


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def open_all(path: Path) -> None:
    for tensor in open_tensors(path).values():
        tensor.numpy()


def claiming(path: Path) -> None:
    """Write a file whose storage says that it has 2^28 numbers."""
    torch.save({"x": torch.zeros(1000)}, path)
    said, claimed = b"M" + struct.pack("<H", 1000), b"J" + struct.pack("<i", 1 << 28)
    with zipfile.ZipFile(path) as old:
        members = {x.filename: old.read(x) for x in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data.replace(said, claimed, 1))


def calling(path: Path, content: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(content, 2))


def deflated(path: Path) -> None:
    torch.save({"x": torch.zeros(1 << 22)}, path)
    with zipfile.ZipFile(path) as old:
        members = {x.filename: old.read(x) for x in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: calling(x, Call(bytearray, 2 * 10**9)), "bytearray"),
        (lambda x: calling(x, [Call(set, [1])] * 9), "plain weights"),
        (claiming, "more numbers than the file has bytes"),
        (deflated, "packed, or larger than the file"),
    ],
    ids=["bytearray", "set", "storage", "deflated"],
)
def test_a_torch_file_that_claims_gigabytes(tmp_path: Path, make: Any, words: str) -> None:
    sound, path = tmp_path / "sound.bin", tmp_path / "x.bin"
    torch.save({"x": torch.zeros(3)}, sound)
    make(path)
    said = run_limited(open_all, sound, path, 256, 20)
    assert said.startswith("AdapterFormatError"), said
    assert words in said
    assert "x.bin" in said


@pytest.mark.slow
def test_an_npz_of_zeros(tmp_path: Path) -> None:
    sound, path = tmp_path / "sound.npz", tmp_path / "x.npz"
    np.savez(sound, x=np.zeros(3))
    np.savez_compressed(path, **{f"x{i}": np.zeros(1 << 23, np.float16) for i in range(8)})
    assert path.stat().st_size < 200_000
    said = run_limited(open_all, sound, path, 100, 20)
    assert said.startswith("AdapterFormatError: the npz file unpacks to far more"), said


def test_zeros_that_somebody_trained_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((8, 2048), np.float16), b=np.ones(7))
    assert len(open_tensors(tmp_path / "x.npz")) == 2


def test_meta_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.empty(4, 4, device="meta")}, tmp_path / "x.bin")
    with raises(
        AdapterFormatError, file="x.bin", got="torch._utils._rebuild_meta_tensor_no_storage"
    ):
        open_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("suffix", ["bin", "npz"])
def test_a_zip_of_several_disks_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "bin":
        torch.save({"x": torch.zeros(3)}, path)
    else:
        np.savez(path, x=np.zeros(3))
    data = path.read_bytes()
    end = data.rfind(b"PK\5\6")
    # The locator of a 64-bit directory that says there are two disks.
    locator = b"PK\6\7" + struct.pack("<LQL", 0, 0, 2)
    path.write_bytes(data[:end] + locator + data[end:])
    with pytest.raises(AdapterFormatError):
        open_tensors(path)


@pytest.mark.parametrize(
    "shape",
    [[10**4000, 10**4000], 33 * [1], [1 << 41, 0], [1 << 62, 0, 1 << 61], [0, 1 << 21, 1 << 20]],
    ids=range(5),
)
def test_a_shape_that_no_array_has_is_refused(tmp_path: Path, shape: list[int]) -> None:
    assert MOST_NUMBERS == MAX_RAW
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": ("F16", shape, bytes(2) if len(shape) == 33 else b"")}))
    with raises(AdapterFormatError, file="x.safetensors"):
        open_tensors(path)


def test_the_largest_shapes_of_no_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": ("F16", [1 << 40, 0], b""), "y": ("F16", [0, 1 << 40], b"")}))
    assert [x.numpy().size for x in open_tensors(path).values()] == [0, 0]


def test_duplicate_keys_count_in_configs_alone() -> None:
    assert strict_json(b'{"a":1,"a":2}', unique=False) == {"a": 2}
    with pytest.raises(ValueError, match="twice"):
        strict_json(b'{"a":1,"a":2}')


# --- expressions ------------------------------------------------------------------------------

EVIL = "(a|aa)+[0-9]"
LONG = "a" * 40


@pytest.mark.parametrize("pattern", ["((a{500}){500}){500}", "(a{2,2000}){1000}"])
def test_an_expression_that_would_be_huge_is_broken(pattern: str) -> None:
    with pytest.raises(ValueError, match="million"):
        match(pattern, "a", Patience())
    assert match("(a{500}){100}", "b", Patience()) is None


@pytest.mark.slow
def test_an_expression_that_backtracks_ends() -> None:
    started = time.process_time()
    config = {"target_modules": EVIL}
    assert not finds(config, LONG)
    paths = [LONG, LONG + "b", LONG + "c"]
    written = written_config(resolved_config(config, paths), paths, None)
    assert written["target_modules"] == paths
    rule = ScaleRule.from_config({"r": 2, "lora_alpha": 2, "rank_pattern": {EVIL: 4}}, Path("c"))
    with pytest.raises(AdapterFormatError):
        rule.rank(LONG)
    assert time.process_time() - started < 8


PATHS = st.sampled_from(
    ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "h.3.attn.c_attn", "q",
     "lm_head", "base.q_proj.q_proj", "layers.1.q-proj", "a.b_c"]
)  # fmt: skip
PIECES = st.sampled_from(
    [r"\d+", ".*", ".", r"\.", "q_proj", "(q|v)_proj", "[qkv]", "layers", "self_attn", "up", "x?",
     "(?:mlp|attn)", "^", "$", r"\w+", "h", "model", "_", "(?!lm)", r"(?=q)", "+", "*", "(", "{2}"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=6).map("".join), PATHS, st.booleans())
def test_expressions_mean_what_they_mean_to_re(pattern: str, path: str, whole: bool) -> None:
    wrapped = pattern if whole else rf"(.*\.)?({pattern})$"
    try:
        expected = re.fullmatch(wrapped, path) if whole else re.match(wrapped, path)
    except re.error:
        with pytest.raises(ValueError):  # noqa: PT011
            match(wrapped, path, Patience(), whole)
        return
    found = match(wrapped, path, Patience(), whole)
    assert (found and found.span()) == (expected and expected.span())


@given(st.dictionaries(PATHS.map(exact_pattern) | PIECES.filter(str.isalpha), st.integers(1, 9)))
def test_the_first_pattern_that_matches_counts(patterns: dict[str, int]) -> None:
    rule = ScaleRule(5, 1.0, False, patterns, {}, Path("c"))
    for path in (
        "model.layers.0.self_attn.q_proj",
        "q",
        "lm_head",
        "model.h",
        "a.q_proj.q_proj",
    ):
        hits = [v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", path)]
        assert rule.rank(path) == (hits or [5])[0]


@pytest.mark.parametrize("code", [b"\x8e", b"\x8d"], ids=["bytes", "text"])
def test_a_pickle_cannot_ask_for_more_than_its_file(tmp_path: Path, code: bytes) -> None:
    file = tmp_path / "adapter_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04" + code + struct.pack("<Q", 1 << 62) + b"x")
    with raises(AdapterFormatError, file="adapter_model.bin"):
        open_tensors(file)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "adapter_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    data = bytearray(file.read_bytes())
    for place in (6, data.find(b"PK\x01\x02") + 8):
        data[place] |= 1
    file.write_bytes(data)
    with pytest.raises(AdapterFormatError):
        open_tensors(file)
