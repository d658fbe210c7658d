"""Tensor files: exact bytes, bf16 without torch, and a typed error for every kind of damage."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from adapter_files import pack

from hydraopt.adapters import RawTensor, open_tensors
from hydraopt.errors import AdapterFormatError
from tests.raising import raises

GOLDEN = (
    (59).to_bytes(8, "little")
    + b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}    '
    + bytes.fromhex("c03f 00c0")
)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_golden_bytes_of_a_bf16_file(tmp_path):
    file = open_tensors(write(tmp_path / "x.safetensors", GOLDEN))
    assert list(file) == ["x"]
    assert (file["x"].dtype, file["x"].shape, file["x"].raw()) == ("BF16", (2,), GOLDEN[-4:])
    np.testing.assert_array_equal(file["x"].numpy(), np.array([1.5, -2.0], np.float32))
    assert file["x"].numpy().dtype == np.float32


def test_header_length_that_looks_like_markup_is_no_web_page(tmp_path):
    entry = b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    data = (0x3C).to_bytes(8, "little") + entry.ljust(0x3C) + b"\7"
    assert open_tensors(write(tmp_path / "x.safetensors", data))["x"].numpy() == [7]


def test_every_dtype_agrees_with_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    dtypes = ["bool", "uint8", "int8", "int16", "int32", "int64"]
    dtypes += ["uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64"]
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 9
    tensors = {name: values.to(getattr(torch, name)) for name in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.bin")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with raises(AdapterFormatError, file="old.pt"):
        open_tensors(tmp_path / "old.pt")
    for name in ("x.safetensors", "x.bin"):
        file = open_tensors(tmp_path / name)
        assert set(file) == set(tensors)
        for key, tensor in tensors.items():
            expected = tensor.float() if tensor.is_floating_point() else tensor
            np.testing.assert_array_equal(file[key].numpy(), expected.numpy())
            assert file[key].numpy().dtype == expected.numpy().dtype
            assert file[key].raw() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_npz_in_both_memory_orders(tmp_path):
    arrays = {"c": np.arange(6, dtype=np.float16).reshape(2, 3), "i": np.arange(3)}
    arrays["f"] = np.asfortranarray(arrays["c"].astype(np.float32))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        file = open_tensors(tmp_path / "x.npz")
        for key, array in arrays.items():
            np.testing.assert_array_equal(file[key].numpy(), array)
            assert file[key].raw() == array.tobytes()


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    with raises(AdapterFormatError, file="x.npz", got="object"):
        open_tensors(tmp_path / "x.npz")


def test_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"x": Touch()}))
    with raises(AdapterFormatError, file="x.bin", got="MEMOIZE.STACK_GLOBAL"):
        open_tensors(tmp_path / "x.bin")
    assert not (tmp_path / "ran").exists()


def test_expanded_torch_view_is_not_materialised(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.bin")
    with raises(AdapterFormatError, file="x.bin"):
        open_tensors(tmp_path / "x.bin")
    torch.save({"x": torch.zeros(1).expand(1 << 10)}, tmp_path / "x.bin")
    with raises(AdapterFormatError, file="x.bin", got="(1024,)"):
        open_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"", ".safetensors"),
        (b"", ".bin"),
        (b"version https://git-lfs.github.com/spec/v1\noid", ".bin"),
        (b"<!DOCTYPE html><html>", ".safetensors"),
        (b"1234", ".safetensors"),
        (GOLDEN[:30], ".safetensors"),
        (GOLDEN[:-1], ".safetensors"),
        (GOLDEN + b"\0", ".safetensors"),
        ((1 << 62).to_bytes(8, "little") + b"{}", ".safetensors"),
        (b"PK\3\4nonsense", ".npz"),
        (b"nonsense", ".bin"),
        (b"nonsense", ".gguf"),
    ],
)
def test_a_broken_file_is_refused_by_its_name(tmp_path, content, suffix):
    path = write(tmp_path / f"x{suffix}", content)
    with pytest.raises(AdapterFormatError) as caught:
        open_tensors(path)
    assert str(caught.value.file) == str(path)


def entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        "[]",
        '{"x": NaN}',
        '{"x": {}, "x": {}}',
        '{"x": %s}' % ("9" * 5000),
        {"x": 1},
        {"x": {**entry(), "more": 1}},
        {"x": entry(dtype="F4")},
        {"x": entry(dtype=["F32"])},
        {"x": entry(shape=[True, 2])},
        {"x": entry(shape=[-2, -1])},
        {"x": entry(shape=[2.0])},
        {"x": entry(data_offsets=[0, 4, 8])},
        {"x": entry(shape=[3])},
        {"x": entry(shape=[1 << 62, 1 << 62])},
        {"x": entry(data_offsets=[8, 0])},
        {"x": entry(), "y": entry()},
        {"x": entry(data_offsets=[4, 12])},
        {"__metadata__": {"a": 1}, "x": entry()},
        {"x": entry(shape=[1 << 40], data_offsets=[0, 1 << 42])},
    ],
    ids=range(20),
)
def test_hostile_headers_are_refused(tmp_path, header):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    with raises(AdapterFormatError, file="x.safetensors"):
        open_tensors(write(tmp_path / "x.safetensors", data))


def test_three_hundred_damaged_files_read_right_or_are_refused(tmp_path):
    rng = np.random.default_rng(7)
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
    good = pack(arrays, {"format": "pt"})
    header_end = 8 + int.from_bytes(good[:8], "little")
    refused = 0
    for round_ in range(300):
        data = bytearray(good)
        match round_ % 4:
            case 0:  # any byte of the header
                data[rng.integers(header_end)] = rng.integers(256)
            case 1:  # a digit of the header: sizes and offsets
                digits = [i for i in range(8, header_end) if chr(data[i]).isdigit()]
                data[rng.choice(digits)] = ord(str(rng.integers(10)))
            case 2:
                del data[rng.integers(len(data)) :]
            case _:
                at, size = rng.integers(len(data)), int(rng.integers(1, 9))
                data[at:at] = rng.bytes(size)
        path = write(tmp_path / "x.safetensors", bytes(data))
        try:
            file = open_tensors(path)
            values = [tensor.numpy() for tensor in file.values()]
        except AdapterFormatError:
            refused += 1
        else:
            assert sum(tensor.nbytes for tensor in file.values()) == len(good) - header_end
            assert all(v.shape == t.shape for v, t in zip(values, file.values(), strict=True))
    assert 200 < refused < 300


def test_file_that_shrinks_while_open_is_noticed(tmp_path):
    path = write(tmp_path / "x.safetensors", GOLDEN)
    tensor = open_tensors(path)["x"]
    write(path, GOLDEN[:-2])
    with raises(AdapterFormatError, file="x.safetensors"):
        tensor.numpy()
    path.unlink()
    with pytest.raises(AdapterFormatError):
        tensor.raw()


@pytest.mark.parametrize(
    ("dtype", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")]
)
def test_all_eight_bit_floats_agree_with_torch(tmp_path, dtype, name):
    torch = pytest.importorskip("torch")
    stored = bytes(range(256))
    tensor = open_tensors(
        write(tmp_path / "x.safetensors", pack({"x": (dtype, (2, 128), stored)}))
    )["x"]
    assert tensor.raw() == stored
    expected = torch.frombuffer(bytearray(stored), dtype=torch.uint8).view(getattr(torch, name))
    np.testing.assert_array_equal(tensor.numpy(), expected.float().reshape(2, 128).numpy())
    assert tensor.numpy().dtype == np.float32
    # All readers write the same NaN for each of them.
    nans = tensor.numpy()[np.isnan(tensor.numpy())]
    assert len(set(nans.view(np.uint32).tolist())) == 1


def test_tensors_can_be_sent_to_another_process(tmp_path):
    tensor = open_tensors(write(tmp_path / "x.safetensors", GOLDEN))["x"]
    assert pickle.loads(pickle.dumps(tensor)).raw() == tensor.raw()


def test_tensor_from_memory():
    tensor = RawTensor.from_numpy("x", np.array([[1, 2]], dtype=">f4"))
    assert (tensor.dtype, tensor.shape) == ("F32", (1, 2))
    np.testing.assert_array_equal(tensor.numpy(), [[1, 2]])


def test_import_needs_no_torch():
    code = "import sys, hydraopt.adapters; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
