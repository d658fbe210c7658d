"""Heads, embeddings and vectors through a whole merge: coded, shared, as differences, exact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hydraopt import merge, open_bundle, read_adapter, read_adapters, shrink, verify_bundle
from hydraopt.bundle import TaskAdapter
from hydraopt.codec import encode_tensor
from hydraopt.errors import BaseMismatchError, UsageError
from hydraopt.merging import add
from tests.marks import slow
from tests.merging.merge_cases import modules_of
from tests.raising import raises

HEAD = "base_model.model.score.weight"
BIAS = "base_model.model.h.0.q.bias"
EMBEDDING = "base_model.model.model.embed_tokens.weight"
Make = Callable[..., Path]


def numbers(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture
def headed(make_adapter: Make, tmp_path: Path) -> list[Path]:
    return [
        make_adapter(tmp_path / f"t{i}", modules_of(i), extras={HEAD: numbers(40, 64, seed=i)})
        for i in range(3)
    ]


def error_of(got: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(got - true) / np.linalg.norm(true))


@pytest.mark.parametrize("size", ["10%", slow("5%")])
def test_a_head_that_is_most_of_an_adapter_is_no_hindrance(headed, tmp_path, size) -> None:
    result = merge(headed, tmp_path / "b", size=size, workers=1)
    assert result.size <= float(size[:-1]) / 100 * result.fp16_bytes
    assert verify_bundle(tmp_path / "b", read_adapters(headed)).ok


def test_what_the_manifest_says_of_a_head_is_what_comes_back(headed, tmp_path) -> None:
    merge(headed, tmp_path / "b", error=0.2, workers=1)
    bundle = open_bundle(tmp_path / "b")
    for folder in headed:
        task = bundle[folder.name]
        true = load_file(folder / "adapter_model.safetensors")[HEAD]
        task.save_pretrained(tmp_path / f"out-{folder.name}")
        got = load_file(tmp_path / f"out-{folder.name}" / "adapter_model.safetensors")[HEAD]
        assert got.dtype == true.dtype
        assert error_of(got, true) == pytest.approx(task.tensor_errors[HEAD], rel=0.03)
        # A head's error counts more than that of a change that is added to the base's weights.
        assert task.tensor_errors[HEAD] < 0.5 * task.error


def test_verify_finds_a_head_that_is_another(headed, tmp_path, make_adapter) -> None:
    merge(headed, tmp_path / "b", error=0.2, workers=1)
    other = make_adapter(tmp_path / "o" / "t0", modules_of(0), extras={HEAD: numbers(40, 64)[::-1]})
    report = verify_bundle(tmp_path / "b", read_adapters([other, *headed[1:]]))
    assert [HEAD in problem for problem in report.problems] == [True]


def test_what_is_named_is_kept_bit_by_bit(headed, tmp_path) -> None:
    result = merge(headed, tmp_path / "b", error=0.2, exact=["*score*"], workers=1)
    task = open_bundle(tmp_path / "b")["t1"]
    true = load_file(headed[1] / "adapter_model.safetensors")[HEAD]
    np.testing.assert_array_equal(task.extras[HEAD].numpy(), true)
    assert task.tensor_errors == {}
    assert result.size > 3 * true.nbytes // 2


def test_a_text_is_no_list_of_patterns(headed, tmp_path) -> None:
    with raises(UsageError, got="'*score*'"):
        merge(headed, tmp_path / "b", error=0.2, exact="*score*", workers=1)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("base_model.model.steps", np.arange(100)),
        ("base_model.model.flags", np.arange(100) % 3 == 0),
        ("base_model.model.bn.running_mean", numbers(100)),
        ("base_model.model.odd", np.append(numbers(99), np.float32(np.nan))),
        ("base_model.model.few", numbers(7)),
        ("", numbers(40)),
    ],
)
def test_what_no_rounding_gives_back_is_kept(make_adapter, tmp_path, key, array) -> None:
    one = make_adapter(tmp_path / "a", modules_of(0), extras={key: array})
    merge([one], tmp_path / "b", error=0.5, workers=1)
    got = open_bundle(tmp_path / "b")["a"].extras[key].numpy()
    np.testing.assert_array_equal(got, array)


def test_a_size_with_room_for_every_bit_keeps_what_a_smaller_one_keeps(
    make_adapter, tmp_path
) -> None:
    kept = numbers(40)
    kept[3] = np.nan
    one = make_adapter(tmp_path / "a", modules_of(0), extras={BIAS: kept})
    for size in ("50%", "90%"):
        merge([one], tmp_path / size, size=size, workers=1)
        np.testing.assert_array_equal(open_bundle(tmp_path / size)["a"].extras[BIAS].numpy(), kept)


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "F16"), (np.float64, "F64")])
def test_a_tensor_comes_back_in_its_dtype(make_adapter, tmp_path, dtype, name) -> None:
    # Rounding would take the largest numbers out of the type.
    large = (np.sign(numbers(40, 8)) * np.finfo(np.float16).max).astype(dtype)
    one = make_adapter(tmp_path / "a", modules_of(0), extras={HEAD: large})
    merge([one], tmp_path / "b", error=0.1, workers=1)
    got = open_bundle(tmp_path / "b")["a"].extras[HEAD]
    assert got.dtype == name
    assert np.isfinite(got.numpy()).all()
    np.testing.assert_allclose(got.numpy(), large, rtol=0.3)


def test_equal_adapters_share_their_heads_stream(make_adapter, tmp_path) -> None:
    extras = {HEAD: numbers(40, 64)}
    folders = [make_adapter(tmp_path / x, modules_of(0), extras=extras) for x in ("a", "b")]
    merge(folders, tmp_path / "two", error=0.2, workers=1)
    merge(folders[:1], tmp_path / "one", error=0.2, workers=1)
    both = open_bundle(tmp_path / "two")
    assert list(both.tensor_bytes) == list(open_bundle(tmp_path / "one").tensor_bytes)
    np.testing.assert_array_equal(both["a"].extras[HEAD].numpy(), both["b"].extras[HEAD].numpy())


def test_an_adapter_without_low_rank_modules(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    key, norm = "base_model.model.norm.ln_tuning_layers.weight", 1 + 0.1 * numbers(64)
    save_file({key: norm}, tmp_path / "a" / "adapter_model.safetensors")
    config = {"peft_type": "LN_TUNING", "target_modules": ["norm"]}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_adapter(tmp_path / "a")
    merge([adapter], tmp_path / "b", error=0.1, workers=1)
    task = open_bundle(tmp_path / "b")["a"]
    assert 0 < task.error == pytest.approx(error_of(task.extras[key].numpy(), norm), rel=1e-3)


@pytest.mark.parametrize("alike", [slow(False), True])
def test_blocks_do_not_change_the_bytes(make_adapter, tmp_path, monkeypatch, alike) -> None:
    """Of tasks that share something of their heads, and of those that do not."""
    mean, folders = numbers(40, 64, seed=9) * alike, []
    for i in range(5):
        extras = {HEAD: mean + numbers(40, 64, seed=i)}
        folders.append(make_adapter(tmp_path / f"t{i}", modules_of(i), extras=extras))
    held: list[int] = []

    def counted(*arguments: Any) -> Any:
        held.append(len(arguments[-1]))
        return encode_tensor(*arguments)

    monkeypatch.setattr("hydraopt.merging.servant.encode_tensor", counted)
    for most, lengths in ((1 << 22, {5}), (2 * 40 * 64, {2, 1})):
        held.clear()
        monkeypatch.setattr("hydraopt.codec.tensors.NUMBERS", most)
        merge(folders, tmp_path / str(most), error=0.2, workers=1)
        assert set(held) == lengths
    assert (tmp_path / str(1 << 22)).read_bytes() == (tmp_path / str(2 * 40 * 64)).read_bytes()
    opened = open_bundle(tmp_path / str(1 << 22))
    assert (opened.common(0) is not None) == alike


def test_a_bundle_with_heads_shrinks(headed, tmp_path) -> None:
    before = merge(headed, tmp_path / "b", size="20%", workers=1)
    after = shrink(tmp_path / "b", tmp_path / "s", size="8%", workers=1)
    assert after.size < before.size / 2
    one, two = (open_bundle(tmp_path / x)["t0"].tensor_errors[HEAD] for x in ("b", "s"))
    assert two > one


def test_one_tensor_that_configs_mean_otherwise_is_two(make_adapter, tmp_path) -> None:
    extras = {BIAS: numbers(48)}
    folders = [
        make_adapter(tmp_path / x, modules_of(0), extras=extras, bias=x) for x in ("all", "none")
    ]
    merge(folders, tmp_path / "b", error=0.2, workers=1)
    assert verify_bundle(tmp_path / "b", read_adapters(folders)).ok
    kinds = [task.extra_kinds[BIAS] for task in open_bundle(tmp_path / "b").values()]
    assert kinds == ["bias", "saved"]


def test_what_an_adapter_has_beside_modules_of_zeros_is_kept_to_the_error(
    make_adapter, tmp_path
) -> None:
    zeros = {path: (0 * b, a) for path, (b, a) in modules_of(0).items()}
    bias = {BIAS: 1e-3 * numbers(48)}
    folders = [
        make_adapter(tmp_path / "zeros", zeros, extras=bias, bias="all"),
        make_adapter(tmp_path / "other", modules_of(1)),
    ]
    merge(folders, tmp_path / "b", max_error=0.1, workers=1)
    assert open_bundle(tmp_path / "b")["zeros"].tensor_errors[BIAS] < 0.1


def test_the_tensors_of_a_bundle_are_decoded_once(
    headed, make_adapter, tmp_path, monkeypatch
) -> None:
    extras = {HEAD: numbers(40, 64), "base_model.model.other.weight": numbers(20, 64)}
    folders = [*headed, make_adapter(tmp_path / "two", modules_of(3), extras=extras)]
    merge(folders, tmp_path / "b", size="20%", workers=1)
    asked: list[str] = []
    real = TaskAdapter.coded_tensors
    monkeypatch.setattr(
        TaskAdapter, "coded_tensors", lambda self: asked.append(self.name) or real(self)
    )
    shrink(tmp_path / "b", tmp_path / "s", size="8%", workers=1)
    assert sorted(asked) == ["t0", "t1", "t2", "two"]


# --- against the base model ----------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    tensors = {"embed_tokens.weight": numbers(2000, 32, seed=9), "norm.weight": numbers(32)}
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    return tmp_path / "base"


@pytest.fixture
def embedding(make_adapter: Make, base: Path, tmp_path: Path) -> Path:
    changed = load_file(base / "model.safetensors")["embed_tokens.weight"]
    changed[::200] += 0.5 * numbers(10, 32, seed=3)
    return make_adapter(tmp_path / "e", modules_of(0), extras={EMBEDDING: changed})


def test_an_embedding_of_which_ten_rows_changed_costs_ten_rows(embedding, base, tmp_path) -> None:
    whole = merge([embedding], tmp_path / "w", error=0.1, workers=1)
    rows = merge([embedding], tmp_path / "r", error=0.1, base=base, workers=1)
    assert rows.size < whole.size / 8
    true = load_file(embedding / "adapter_model.safetensors")[EMBEDDING]
    got = open_bundle(tmp_path / "r", base)["e"].extras[EMBEDDING].numpy()
    own = load_file(base / "model.safetensors")["embed_tokens.weight"]
    unchanged = np.ones(2000, bool)
    unchanged[::200] = False
    np.testing.assert_array_equal(got[unchanged], own[unchanged])
    assert error_of(got - own, true - own) < 0.3
    assert verify_bundle(tmp_path / "r", [read_adapter(embedding)], base).ok


def test_without_the_base_it_is_refused_by_name(embedding, base, tmp_path) -> None:
    merge([embedding], tmp_path / "r", error=0.1, base=base, workers=1)
    bundle = open_bundle(tmp_path / "r")
    assert list(bundle["e"].factors()) == ["h.0.q", "h.0.v", "h.1.q", "h.1.v"]
    with raises(UsageError, file="r"):
        _ = bundle["e"].extras
    assert verify_bundle(tmp_path / "r").ok
    report = verify_bundle(tmp_path / "r", [read_adapter(embedding)])
    assert ["--base" in problem for problem in report.problems] == [True]


def test_another_base_is_refused(embedding, base, tmp_path) -> None:
    merge([embedding], tmp_path / "r", error=0.1, base=base, workers=1)
    (tmp_path / "other").mkdir()
    other = {"embed_tokens.weight": numbers(2000, 32, seed=8)}
    save_file(other, tmp_path / "other" / "model.safetensors")
    with raises(BaseMismatchError, file="r"):
        _ = open_bundle(tmp_path / "r", tmp_path / "other")["e"].extras


def test_a_base_with_nan_is_no_reference(embedding, base, tmp_path) -> None:
    own = load_file(base / "model.safetensors")
    own["embed_tokens.weight"][3, 3] = np.nan
    save_file(own, base / "model.safetensors")
    merge([embedding], tmp_path / "r", error=0.1, base=base, workers=1)
    assert open_bundle(tmp_path / "r").manifest.tensors[0].base is None
    assert verify_bundle(tmp_path / "r", [read_adapter(embedding)]).ok


def test_a_large_base_takes_no_numbers_beside_shared_bases(
    make_adapter, base, tmp_path, monkeypatch
) -> None:
    # As of an embedding of 10^8 numbers, of which a few rows changed.
    monkeypatch.setattr("hydraopt.codec.stream.MOST_NUMBERS_OF_FILE", (0, 12))
    monkeypatch.setattr("hydraopt.bundle.limits.MOST_NUMBERS_OF_FILE", (0, 12))
    folders = []
    for i in range(3):
        changed = load_file(base / "model.safetensors")["embed_tokens.weight"]
        changed[i] += 0.5
        folders.append(make_adapter(tmp_path / f"t{i}", modules_of(i), extras={EMBEDDING: changed}))
    merge(folders, tmp_path / "b", error=0.1, base=base, forms=["shared-input"], workers=1)
    bundle = open_bundle(tmp_path / "b", base)
    assert bundle.tensor_bytes["shared"] > 0
    assert verify_bundle(tmp_path / "b", read_adapters(folders), base).ok


def test_a_base_without_weights_is_refused(embedding, tmp_path) -> None:
    with raises(UsageError, expected="*.safetensors"):
        merge([embedding], tmp_path / "r", base=tmp_path)
    assert not (tmp_path / "r").exists()


def test_a_tensor_of_which_nothing_is_kept_is_told(make_adapter, tmp_path) -> None:
    tiny = {f"{BIAS}": 1e-6 * numbers(64)}
    one = make_adapter(tmp_path / "a", modules_of(0), extras=tiny, bias="all")
    result = merge([one], tmp_path / "b", error=0.3, workers=1)
    assert [(x.code, x.where) for x in result.notes] == [("tensors_hardly_kept", BIAS)]
    kept = merge([one], tmp_path / "b", error=0.3, exact=["*.bias"], workers=1)
    assert kept.notes == ()


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_numbers_of_64_bits_beyond_those_of_32(make_adapter, tmp_path, scale) -> None:
    head = scale * numbers(40, 8).astype(np.float64)
    one = make_adapter(tmp_path / "a", modules_of(0), extras={HEAD: head})
    merge([one], tmp_path / "b", error=0.2, workers=1)
    task = open_bundle(tmp_path / "b")["a"]
    got = np.frombuffer(task.extras[HEAD].raw()).reshape(40, 8)
    assert error_of(got / scale, head / scale) == pytest.approx(task.tensor_errors[HEAD], rel=0.03)
    assert verify_bundle(tmp_path / "b", [read_adapter(one)]).ok


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_numbers_that_no_step_reaches_are_kept(make_adapter, tmp_path, scale) -> None:
    head = scale * numbers(40, 8).astype(np.float64)
    one = make_adapter(tmp_path / "a", modules_of(0), extras={HEAD: head})
    merge([one], tmp_path / "b", error=0.2, workers=1)
    task = open_bundle(tmp_path / "b")["a"]
    assert task.extras[HEAD].raw() == head.tobytes()
    assert task.tensor_errors == {}


@pytest.mark.parametrize("pattern", ["*scroe*", "*lora_A*"])
def test_a_pattern_that_keeps_nothing_is_refused(headed, tmp_path: Path, pattern: str) -> None:
    with raises(UsageError, got=pattern):
        merge(headed, tmp_path / "b", error=0.2, exact=["*score*", pattern], workers=1)
    assert not (tmp_path / "b").exists()
    merge(headed[:1], tmp_path / "b", error=0.2, workers=1)
    before = (tmp_path / "b").read_bytes()
    with raises(UsageError, got=pattern):
        add(tmp_path / "b", headed[1:2], exact=[pattern], workers=1)
    assert (tmp_path / "b").read_bytes() == before
