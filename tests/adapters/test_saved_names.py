"""What stands where in the base model, of tensors that an adapter keeps whole."""

from __future__ import annotations

from hydraopt.adapters import PREFIX, saved_names


def of(*names: str) -> dict[str, str]:
    found = saved_names([PREFIX + x for x in names])
    return {key.removeprefix(PREFIX): name for key, name in found.items()}


def test_the_wrapper_and_the_name_of_the_adapter_go() -> None:
    assert of("head.weight") == {"head.weight": "head.weight"}
    assert of("head.modules_to_save.weight")["head.modules_to_save.weight"] == "head.weight"
    for name in ("default", "other"):
        keys = [f"head.modules_to_save.{name}.{x}" for x in ("weight", "bias")]
        assert list(of(*keys).values()) == ["head.weight", "head.bias"]
    assert saved_names(["_orig_mod.head.modules_to_save.default.weight"]) == {
        "_orig_mod.head.modules_to_save.default.weight": "head.weight"
    }


def test_a_part_of_the_module_is_no_name_of_an_adapter() -> None:
    keys = "head.modules_to_save.dense.bias", "head.modules_to_save.out.bias"
    assert list(of(*keys).values()) == ["head.dense.bias", "head.out.bias"]
    mixed = "head.modules_to_save.weight", "head.modules_to_save.dense.bias"
    assert list(of(*mixed).values()) == ["head.weight", "head.dense.bias"]


def test_what_peft_does_not_load_stands_for_nothing() -> None:
    plain = ["head.dense.bias", "head.out.bias"]
    copies = [
        f"head.{x}.{y}.bias"
        for x in ("modules_to_save", "original_module")
        for y in ("dense", "out")
    ]
    assert of(*plain, *copies) == {x: x for x in plain}
    named = [x.replace("modules_to_save.", "modules_to_save.default.") for x in copies]
    assert of(*plain, *named) == {x: x for x in plain}
    # One alone could be of an adapter that is called "dense".
    assert of("head.dense.bias", "head.modules_to_save.dense.bias") == {
        "head.dense.bias": "head.dense.bias"
    }
