"""A batch with odd files: every problem is reported, or the files are left out and listed."""

from __future__ import annotations

import numpy as np
import pytest
from adapter_files import lora, peft_config

from hydraopt.adapters import check_same_base, read_adapters
from hydraopt.errors import (
    AdapterFormatError,
    AlignmentError,
    BaseMismatchError,
    BatchError,
    NumericalError,
    UsageError,
)


@pytest.fixture
def odd(save, tmp_path):
    """Two good adapters, and files that are none, each in its own way."""
    for name in ("de", "fr"):
        save(f"set/{name}", lora(), peft_config())
    (tmp_path / "set" / "cut.safetensors").write_bytes(b"abc")
    for name in ("page", "page2"):
        (tmp_path / "set" / f"{name}.safetensors").write_text("<html>")
    (tmp_path / "set" / "config").mkdir()
    (tmp_path / "set" / "config" / "adapter_config.json").write_text("{")
    save("set/plain", {"weight": np.ones((2, 2), np.float32)}, peft_config())
    return tmp_path / "set"


UNREADABLE = ("cut", "page", "page2", "config", "plain")


def test_every_problem_of_a_batch_is_reported(odd):
    with pytest.raises(BatchError) as caught:
        read_adapters(f"{odd}/*")
    assert isinstance(caught.value, AdapterFormatError)
    assert len(caught.value.problems) == len(UNREADABLE)
    assert all(str(odd / name) in str(caught.value) for name in UNREADABLE)


def test_one_problem_keeps_its_own_error(odd):
    with pytest.raises(AdapterFormatError) as caught:
        read_adapters([odd / "de", odd / "cut.safetensors"])
    assert not isinstance(caught.value, BatchError)


def test_other_kinds_of_problems_are_reported_with_them(odd, save, tmp_path):
    save("other/gpt", lora(), peft_config(base_model_name_or_path="org/other"))
    save("other/ lead", lora(), peft_config())
    with pytest.raises(BatchError) as caught:
        read_adapters([odd / "de", odd / "cut.safetensors", f"{tmp_path}/other/*", "nowhere"])
    kinds = {type(error) for error in caught.value.problems}
    assert kinds == {AdapterFormatError, UsageError, BaseMismatchError}


def test_what_cannot_be_read_is_left_out_and_listed(odd):
    found = read_adapters(f"{odd}/*", skip_unreadable=True)
    assert [adapter.name for adapter in found] == ["de", "fr"]
    assert all(any(str(odd / name) in note.where for note in found.notes) for name in UNREADABLE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_left_out_as_well(save, tmp_path, value):
    save("set/fr", lora(), peft_config())
    tensors = lora()
    tensors["base_model.model.h.0.q.lora_A.weight"][0, 0] = value
    bad = save("set/de", tensors, peft_config())
    found = read_adapters(f"{tmp_path}/set/*", skip_unreadable=True)
    assert [adapter.name for adapter in found] == ["fr"]
    assert any(str(bad) in note.where for note in found.notes)


def test_nothing_is_left_out_unasked_and_something_must_be_left(odd):
    with pytest.raises(BatchError):
        read_adapters([odd / "page.safetensors", odd / "cut.safetensors"], skip_unreadable=True)
    with pytest.raises(AdapterFormatError):
        read_adapters([odd / "cut.safetensors"], skip_unreadable=True)


def test_names_and_bases_are_not_what_is_unreadable(save, tmp_path):
    save("fr", lora(), peft_config())
    save("de", lora(), peft_config(base_model_name_or_path="org/other"))
    with pytest.raises(BaseMismatchError):
        read_adapters([tmp_path / "fr", tmp_path / "de"], skip_unreadable=True)
    twice = [f"x={tmp_path}/fr", f"x={tmp_path}/de"]
    with pytest.raises(UsageError):
        read_adapters(twice, same_base=True, skip_unreadable=True)


def test_adapters_are_grouped_by_base_revision_and_shape(save, tmp_path):
    made = {
        "a1": ("org/a", 5, None),
        "a2": ("models/A/", 5, "main"),
        "a3": ("org/a", 6, None),
        "b1": ("org/b", 5, "1"),
        "b2": ("org/b", 5, "2"),
        "c": (None, 5, None),
    }
    for name, (base, m, revision) in made.items():
        config = peft_config(base_model_name_or_path=base, revision=revision)
        save(f"set/{name}", lora(m=m), config)
    with pytest.raises(BaseMismatchError) as caught:
        read_adapters(f"{tmp_path}/set/*")
    groups = [names for _, names in caught.value.groups]
    assert sorted(groups) == [("a1", "a2"), ("a3",), ("b1",), ("b2",), ("c",)]
    assert len({base for base, _ in caught.value.groups}) == len(groups)
    assert caught.value.paths["a3"] == f"{tmp_path}/set/a3"


def test_shapes_are_grouped_whatever_the_names(save, tmp_path):
    for i, m in enumerate((5, 6, 5, 6, 7)):
        save(f"set/t{i}", lora(m=m), peft_config())
    with pytest.raises(AlignmentError) as caught:
        read_adapters(f"{tmp_path}/set/*", same_base=True)
    groups = [names for _, names in caught.value.groups]
    assert groups == [("t0", "t2"), ("t1", "t3"), ("t4",)]
    for group in groups:
        some = read_adapters([tmp_path / "set" / name for name in group])
        assert check_same_base(some, False) == "org/tiny"


def test_two_bad_numbers_are_both_reported_when_merged_losslessly(save, tmp_path):
    from hydraopt.merging import merge

    for name in ("de", "en", "fr"):
        tensors = lora()
        if name != "en":
            tensors["base_model.model.h.0.q.lora_A.weight"][0, 0] = np.nan
        save(f"set/{name}", tensors, peft_config())
    with pytest.raises(BatchError) as caught:
        merge(f"{tmp_path}/set/*", tmp_path / "out", lossless=True)
    assert [type(error) for error in caught.value.problems] == [NumericalError] * 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", [".alpha", "_alpha", None])
def test_kohya_names_joined_by_an_underscore(save, tmp_path, alpha):
    rng = np.random.default_rng(1)
    down, up = (rng.standard_normal(x).astype(np.float32) for x in ((4, 6), (5, 4)))
    path = "lora_unet_down_blocks_0_attn1_to_q"
    joined = {f"{path}_lora_down.weight": down, f"{path}_lora_up.weight": up}
    plain = {f"{path}.lora_down.weight": down, f"{path}.lora_up.weight": up}
    if alpha is not None:
        joined[path + alpha] = plain[f"{path}.alpha"] = np.array(2.0, np.float32)
    save("joined", joined, file="joined.safetensors")
    save("plain", plain, file="plain.safetensors")
    one, other = read_adapters([tmp_path / "joined", tmp_path / "plain"])
    assert (one.format, list(one.modules)) == (other.format, [path])
    assert one.modules[path].scale == other.modules[path].scale == (1 if alpha is None else 0.5)
    for mine, theirs in zip(
        one.modules[path].factors(), other.modules[path].factors(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert not one.extras


@pytest.mark.parametrize(
    "names",
    [
        ("blocks.0.q.base_lora_down.weight", "blocks.0.q.expert_lora_down.0.weight"),
        ("unet.q.processor.lora_down_0.weight", "unet.q.processor.lora_up_0.weight"),
    ],
)
def test_unknown_names_of_lora_are_no_whole_model(save, names):
    folder = save("x", {name: np.ones((2, 2), np.float32) for name in names})
    with pytest.raises(AdapterFormatError) as caught:
        read_adapters([folder])
    assert "model" not in str(caught.value.what)
