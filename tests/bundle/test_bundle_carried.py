"""Carried tensors come back bit by bit, shared where tasks hold the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.adapters import DTYPE_BYTES, HeldBytes, RawTensor
from hydraopt.bundle import pack_carried
from hydraopt.bundle.encoding import deflate, inflate
from hydraopt.bundle.payload import unpack_blob
from hydraopt.errors import BundleFormatError
from tests.raising import raises


def raw(key: str, dtype: str, shape: tuple[int, ...], data: bytes) -> RawTensor:
    return RawTensor(key, dtype, shape, Path("memory"), HeldBytes(data))


def normal(key: str, seed: int, count: int = 50) -> RawTensor:
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    return RawTensor.from_numpy(key, values)


@given(st.data())
def test_bits_come_back(data: st.DataObject) -> None:
    tasks: dict[str, dict[str, RawTensor]] = {}
    for name in data.draw(st.lists(st.sampled_from("abc"), unique=True)):
        tasks[name] = {}
        for key in data.draw(st.lists(st.sampled_from("wxyz"), unique=True)):
            dtype = data.draw(st.sampled_from(sorted(DTYPE_BYTES)))
            shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
            size = int(np.prod(shape)) * DTYPE_BYTES[dtype]
            content = data.draw(st.binary(min_size=size, max_size=size))
            tasks[name][key] = raw(key, dtype, shape, content)
    packed = pack_carried(tasks)
    blobs = [
        unpack_blob(blob, content, Path("b"))
        for blob, content in zip(packed.blobs, packed.data, strict=True)
    ]
    for name, tensors in tasks.items():
        found = {key: x for i in packed.tasks[name] for key, x in blobs[i].items()}
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape)
            assert found[key].raw() == tensor.raw()


def test_blobs_follow_who_holds_what() -> None:
    one, two, three = normal("a", 1), normal("b", 2), normal("c", 3)
    packed = pack_carried(
        {"x": {"a": one, "b": two}, "y": {"b": two, "a": one}, "z": {"a": one, "c": three}}
    )
    held = {i: [item.key for item in blob.items] for i, blob in enumerate(packed.blobs)}
    assert sorted(held.values()) == [["a"], ["b"], ["c"]]
    assert {name: [held[i] for i in blobs] for name, blobs in packed.tasks.items()} == {
        "x": [["b"], ["a"]],
        "y": [["b"], ["a"]],
        "z": [["a"], ["c"]],
    }


def test_equal_bytes_are_stored_once() -> None:
    data = normal("a", 1, 1000).raw()
    single = pack_carried({"x": {"a": raw("a", "F32", (1000,), data)}})
    tensors = {f"k{i}": raw(f"k{i}", "F32", (10, 100), data) for i in range(20)}
    packed = pack_carried({"x": tensors})
    assert packed.blobs[0].raw_size == 4000
    assert list(packed.data) == list(single.data)
    found = unpack_blob(packed.blobs[0], packed.data[0], Path("b"))
    assert all(x.raw() == data for x in found.values())


def test_planes_are_smaller_than_plain_deflate() -> None:
    tensor = normal("a", 1, 20_000)
    packed = pack_carried({"x": {"a": tensor}})
    assert len(packed.data[0]) < 0.95 * len(deflate(tensor.raw()))


def test_order_of_keys_and_tasks_does_not_matter() -> None:
    tensors = {f"k{i}": normal(f"k{i}", i) for i in range(4)}
    backwards = dict(reversed(tensors.items()))
    first = pack_carried({"x": tensors, "y": tensors})
    second = pack_carried({"y": backwards, "x": backwards})
    assert (first.blobs, first.tasks) == (second.blobs, second.tasks)
    assert list(first.data) == list(second.data)


def test_what_32_bits_cannot_state_takes_several_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydraopt.bundle.payload.MOST_CONTENT", 1000)
    tensors = {f"k{i}": normal(f"k{i}", i, 100) for i in range(5)}
    packed = pack_carried({"x": tensors, "y": tensors})
    assert [len(blob.items) for blob in packed.blobs] == [2, 2, 1]
    assert packed.tasks == {"x": (0, 1, 2), "y": (0, 1, 2)}
    found = {}
    for blob, data in zip(packed.blobs, packed.data, strict=True):
        found |= unpack_blob(blob, data, Path("b"))
    assert {key: x.raw() for key, x in found.items()} == {k: x.raw() for k, x in tensors.items()}
    monkeypatch.setattr("hydraopt.bundle.encoding.MOST_CONTENT", 399)
    with raises(BundleFormatError, got="400 bytes"):
        pack_carried({"x": {"k": tensors["k0"]}})


def test_bombs_are_not_read() -> None:
    with raises(BundleFormatError, expected="999 bytes"):
        inflate(deflate(bytes(1000)), 999, 1 << 20, "it")
    with raises(BundleFormatError, got="1000 bytes, as it says"):
        inflate(deflate(bytes(1000)), None, 999, "it")
