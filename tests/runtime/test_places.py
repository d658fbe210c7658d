"""Finding a bundle's modules in a model, and refusing models that do not have them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hydraopt import attach
from hydraopt.bundle import ModuleEntry
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.serve.places import Places, Renaming
from tests.raising import raises
from tests.runtime.conftest import close, expected, hooks_of, logits


class Wrapper(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def test_a_wrapped_model_and_its_inner_one(model, bundle_of) -> None:
    path = bundle_of("all")
    right = expected(model, path, "de")
    with attach(Wrapper(inner=Wrapper(language_model=model)), path) as attached:
        attached.set_task("de")
        assert close(logits(model), right)
    with attach(model.model, path) as attached:  # "layers.0..." for "model.layers.0..."
        attached.set_task("de")
        assert close(logits(model), right)
    with attach(Wrapper(trunk=model.model), path) as attached:
        attached.set_task("de")
        assert close(logits(model), right)


def test_two_models_in_one_are_refused_unless_one_fits_as_it_is(model, bundle_of) -> None:
    path = bundle_of("all")
    twin = copy.deepcopy(model)
    with raises(
        AlignmentError,
        module="model.layers.0.mlp.down_proj",
        file="all.hydra.safetensors",
        got="a.model.layers.0.mlp.down_proj",
    ):
        attach(Wrapper(a=model, b=twin), path)
    with attach(Wrapper(model=model.model, other=twin), path) as attached:
        attached.set_task(attached.tasks[0])
        assert hooks_of(twin) == 0
        assert hooks_of(model) == len(attached._handles) > 0


def test_a_missing_module_is_named_with_what_was_found(model, bundle_of) -> None:
    names = r"model\.layers\.0\.mlp\.down_proj"
    lacking = Wrapper(model=Wrapper(layers=nn.ModuleList([model.model.layers[1].self_attn])))
    with pytest.raises(AlignmentError) as caught:
        attach(lacking, bundle_of("all"))
    caught.match(rf"module {names}\]; got no such module; the model has model\.layers\.0\.._proj")
    caught.match(r"expected a linear module of shape \(32, 64\).*Give the base model")
    assert hooks_of(lacking) == 0
    with pytest.raises(AlignmentError):
        attach(nn.Sequential(nn.ReLU()), bundle_of("all"))


def test_another_shape_or_kind_is_refused(model, bundle_of) -> None:
    layer = model.model.layers[1].mlp
    down = layer.down_proj
    for other, facts in (
        (
            nn.Linear(64, 33),
            {
                "module": "model.layers.1.mlp.down_proj",
                "file": "all.hydra.safetensors",
                "got": "model.layers.0.mlp.down_proj",
            },
        ),
        (
            nn.ReLU(),
            {
                "module": "model.layers.1.mlp.down_proj",
                "file": "all.hydra.safetensors",
                "got": "model.layers.0.mlp.down_proj",
            },
        ),
        (
            nn.Linear(64, 32, device="meta"),
            {"module": "model.layers.1.mlp.down_proj", "file": "all.hydra.safetensors"},
        ),
    ):
        layer.down_proj = other
        try:
            with raises(AlignmentError, **facts):
                attach(model, bundle_of("all"))
        finally:
            layer.down_proj = down


def entry(path: str) -> ModuleEntry:
    return ModuleEntry(path, "linear", 4, 4)


def test_a_layer_is_never_taken_for_another(tmp_path) -> None:
    # Only one "q" there is, but in layer 5; "layers.0.q" must not be found in it.
    net = Wrapper(layers=nn.ModuleDict({"5": nn.ModuleDict({"q": nn.Linear(4, 4)})}))
    with pytest.raises(AlignmentError):
        Places(net, [entry("model.layers.0.q")], tmp_path)
    assert Places(net, [entry("model.layers.5.q")], tmp_path).renaming == Renaming(1, "")
    # What is cut off must be the same of all.
    with pytest.raises(AlignmentError):
        Places(net, [entry("model.layers.5.q"), entry("other.layers.5.q")], tmp_path)
    with pytest.raises(AlignmentError):
        Places(net, [entry("model.layers.5.q"), entry("lm_head")], tmp_path)


def test_a_model_that_moved_is_refused(model, bundle_of) -> None:
    with attach(model, bundle_of("all")) as attached:
        attached.set_task("de")
        module = model.get_submodule("model.layers.0.self_attn.q_proj")
        x = torch.empty(1, 2, 32, device="meta")
        hook = next(iter(module._forward_hooks.values()))
        with raises(
            UsageError, module="model.layers.0.self_attn.q_proj", got="meta", expected="cpu"
        ):
            hook(module, (x,), {}, x)
