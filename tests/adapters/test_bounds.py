"""No adapter file makes its reader take what the file only claims."""

from __future__ import annotations

import json
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
from hypothesis import given
from hypothesis import strategies as st

from hydraopt import read_adapter
from hydraopt.adapters.expressions import Patience, match
from hydraopt.adapters.jsontext import strict_json
from hydraopt.adapters.peftconfig import exact_pattern, finds, resolved_config, written_config
from hydraopt.adapters.rawtensor import MOST_NUMBERS
from hydraopt.adapters.scale import ScaleRule
from hydraopt.adapters.tensorfile import open_tensors
from hydraopt.bundle.items import MAX_RAW
from hydraopt.errors import AdapterFormatError
from tests.limited import run_limited
from tests.raising import raises

torch = pytest.importorskip("torch")

PAIR = {
    "base_model.model.h.q.lora_A.weight": np.ones((2, 8), np.float32),
    "base_model.model.h.q.lora_B.weight": np.ones((4, 2), np.float32),
}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}


def peft(folder: Path, config: object = CONFIG, suffix: str = "safetensors") -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    if suffix == "bin":
        torch.save({k: torch.from_numpy(v) for k, v in PAIR.items()}, folder / "adapter_model.bin")
    else:
        save_file(PAIR, folder / "adapter_model.safetensors")
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text)
    return folder


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def open_all(path: Path) -> None:
    for tensor in open_tensors(path).values():
        tensor.numpy()


def old_storage(path: Path) -> None:
    """torch's old container, whose storage says that it has 2^28 numbers."""
    torch.save({"x": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    said, claimed = b"M" + struct.pack("<H", 1000), b"J" + struct.pack("<i", 1 << 28)
    assert said in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(said, claimed, 1))


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
        (lambda x: x.write_bytes(pickle.dumps(Call(bytearray, 2 * 10**9), 2)), "bytearray"),
        (lambda x: x.write_bytes(pickle.dumps([Call(set, [1])] * 9, 2)), "plain weights"),
        (old_storage, "more numbers than the file has bytes"),
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
    ("config", "facts"),
    [
        ({**CONFIG, "note": "\ud800"}, {"file": "adapter_config.json", "got": "\\ud800"}),
        ({**CONFIG, "lora_alpha": 10**400}, {"file": "adapter_config.json"}),
        ({**CONFIG, "r": 10**400}, {"file": "adapter_config.json"}),
        ({**CONFIG, "modules_to_save": 3}, {"file": "adapter_config.json", "got": "3"}),
        ({**CONFIG, "use_rslora": "false"}, {"file": "adapter_config.json", "got": "'false'"}),
        (
            {**CONFIG, "target_modules": {"q": 1}},
            {"file": "adapter_config.json", "got": "{'q': 1}"},
        ),
        (
            {**CONFIG, "lora_dropout": float("nan")},
            {"file": "adapter_config.json", "got": "NaN is not JSON"},
        ),
        (json.dumps(CONFIG)[:-1] + ', "x": 1e999}', {"file": "adapter_config.json"}),
        (
            json.dumps(CONFIG)[:-1] + ', "x": ' + "[" * 90 + "]" * 90 + "}",
            {"file": "adapter_config.json", "got": "nested too deeply"},
        ),
        (
            json.dumps(CONFIG)[:-1] + ', "x": 1' + "0" * 5000 + "}",
            {"file": "adapter_config.json", "got": "sys.set_int_max_str_digits"},
        ),
    ],
)
def test_an_odd_config_names_file_and_remedy(
    tmp_path: Path, config: object, facts: dict[str, object]
) -> None:
    folder = peft(tmp_path / "fr", config)
    with raises(AdapterFormatError, **facts) as caught:
        read_adapter(folder)
    assert caught.value.do


def test_a_shape_of_thousands_of_digits(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [10**4000, 10**4000], "data_offsets": [0, 0]}
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with raises(AdapterFormatError, file="x.safetensors"):
        open_tensors(path)


@pytest.mark.parametrize("shape", [[1 << 41, 0], [1 << 62, 0, 1 << 61], [0, 1 << 21, 1 << 20]])
def test_a_huge_shape_of_no_numbers_is_refused(tmp_path: Path, shape: list[int]) -> None:
    assert MOST_NUMBERS == MAX_RAW
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": ("F16", shape, b"")}))
    with raises(AdapterFormatError, file="x.safetensors") as caught:
        open_tensors(path)
    assert str(caught.value.file) == str(path)


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


def test_a_bias_of_nothing_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = peft(tmp_path / "fr")
    bias = {"base_model.model.h.other.lora_B.bias": np.ones(4, np.float32)}
    save_file(PAIR | bias, folder / "adapter_model.safetensors")
    with raises(
        AdapterFormatError,
        file="adapter_model.safetensors",
        got="base_model.model.h.other.lora_B.bias",
    ):
        read_adapter(folder)


# --- kohya files whose tensors have odd shapes ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "facts"),
    [
        ("alpha", 40 * (1,), {"file": "image.safetensors", "got": 40}),
        (
            "lora_up.weight",
            (12, 0),
            {"module": "lora_unet_q", "file": "image.safetensors", "got": 0},
        ),
    ],
)
def test_odd_shapes_of_a_kohya_file_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], facts: dict[str, object]
) -> None:
    from safetensors.numpy import save

    pair = {
        "lora_unet_q.lora_down.weight": np.ones((0 if "up" in name else 4, 16), np.float16),
        "lora_unet_q.lora_up.weight": np.ones((12, 4), np.float16),
        "lora_unet_q.alpha": np.array(2, np.float16),
    }
    many = len(shape) > 32
    pair[f"lora_unet_q.{name}"] = np.ones(1 if many else shape, np.float16)
    data = save(pair)
    if many:  # More axes than numpy is sure to hold, so by hand.
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header[f"lora_unet_q.{name}"]["shape"] = list(shape)
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    (tmp_path / "image.safetensors").write_bytes(data)
    with raises(AdapterFormatError, **facts):
        read_adapter(tmp_path / "image.safetensors")


@pytest.mark.parametrize("code", [b"\x8e", b"\x8d"], ids=["bytes", "text"])
def test_a_pickle_cannot_ask_for_more_than_its_file(tmp_path: Path, code: bytes) -> None:
    file = tmp_path / "adapter_model.bin"
    file.write_bytes(b"\x80\x04" + code + struct.pack("<Q", 1 << 62) + b"x")
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
