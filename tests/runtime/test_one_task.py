"""One task for all rows: what it computes, and that the model is left as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hydraopt
from hydraopt import HydraoptError, attach, merge, open_bundle
from hydraopt.bundle import split
from hydraopt.codec import Mode, SplitRecord, SplitSide, Way
from hydraopt.errors import TaskNotFoundError, UsageError
from hydraopt.serve.heads import module_head, site_of
from hydraopt.serve.places import ModulePlace
from tests.conftest import write_adapter
from tests.marks import slow
from tests.raising import raises
from tests.runtime.conftest import (
    FORM_NAMES,
    IDS,
    TASKS,
    Q,
    adapters,
    close,
    expected,
    hooks_of,
    logits,
)

pytestmark = [
    # What torch, transformers and PEFT deprecate is not ours to answer for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

KINDS = [*(slow(x) for x in FORM_NAMES if x != "two-sided"), "two-sided", "all", "lossless"]


@pytest.mark.parametrize("form", KINDS)
def test_logits_are_those_of_the_factors_and_of_peft(model, bundle_of, form, tmp_path) -> None:
    from peft import PeftModel

    path = bundle_of(form)
    bundle = open_bundle(path)
    if form in FORM_NAMES:
        assert {x for name in bundle for x in bundle[name].forms().values()} == {form}
    base = logits(model)
    with attach(model, path) as attached:
        got = {}
        for name in attached.tasks:
            attached.set_task(name)
            got[name] = logits(model)
    assert tuple(got) == TASKS
    for name, found in got.items():
        assert close(found, expected(model, path, name))
        assert (found - base).abs().max() > 0.3  # the tasks do something
        bundle[name].save_pretrained(tmp_path / name, dtype="float32")
        peft = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / name)
        assert close(found, logits(peft.eval()))


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_narrow_types_are_as_good_as_with_the_factors(model, bundle_of, form, dtype) -> None:
    path = bundle_of(form)
    narrow = copy.deepcopy(model).to(dtype)
    wide = copy.deepcopy(narrow).float()  # the same rounded base
    with attach(narrow, path) as attached:
        for name in TASKS:
            attached.set_task(name)
            got = logits(narrow)
            assert got.dtype is dtype
            with_none = attached.active
            attached.disable()
            right, other = expected(wide, path, name), expected(narrow, path, name)
            attached.enable()
            assert attached.active == with_none == (name,)
            error = (got.float() - right).norm() / right.norm()
            times, most = (2, 0.03) if dtype is torch.bfloat16 else (3, 0.004)
            assert error < times * (other.float() - right).norm() / right.norm()
            assert error < most
        held = [x for s in attached._bundles[0].sites.values() for x in (s.left, s.right)]
        assert {x.dtype for x in held if x is not None} <= {dtype}


def test_switching_disabling_and_leaving_change_nothing_else(model, bundle_of) -> None:
    base, state = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    hooks = hooks_of(model)
    attached = attach(model, bundle_of("all"))
    assert torch.equal(logits(model), base)  # nothing is selected yet
    attached.set_task("de")
    german = logits(model)
    assert not torch.equal(german, base)
    attached.set_task("fr")
    assert not torch.equal(logits(model), german)
    attached.set_task("de")
    assert torch.equal(logits(model), german)
    attached.disable()
    assert torch.equal(logits(model), base)
    attached.set_task("fr")
    assert torch.equal(logits(model), base)
    attached.enable()
    assert attached.active == ("fr",)
    with attached.task("de") as inner:
        assert inner is attached
        assert torch.equal(logits(model), german)
        with attached.task(None):
            assert torch.equal(logits(model), base)
        with attached.task(["fr", "de", None, "en"]):
            assert attached.active == ("fr", "de", None, "en")
        assert torch.equal(logits(model), german)
    assert attached.active == ("fr",)
    with pytest.raises(ZeroDivisionError), attached.task("de"):
        1 / 0
    assert attached.active == ("fr",)
    with raises(TaskNotFoundError, got="'fx'"):
        attached.set_task("fx")
    assert attached.active == ("fr",)
    attached.set_task(None)
    assert torch.equal(logits(model), base)
    attached.set_task("de")
    attached.detach()
    attached.detach()
    assert torch.equal(logits(model), base)
    assert hooks_of(model) == hooks
    assert all(torch.equal(x, state[k]) for k, x in model.state_dict().items())
    assert list(model.state_dict()) == list(state)
    assert attached.memory().shared == attached.memory().cached == attached.memory().active == 0
    for call in (lambda: attached.set_task("de"), lambda: attached.set_tasks(["de"])):
        with pytest.raises(UsageError):
            call()


def test_a_block_may_detach(model, bundle_of) -> None:
    base = logits(model)
    attached = attach(model, bundle_of("all"))
    attached.set_task("fr")
    with attached.task("de"):
        attached.detach()
        assert torch.equal(logits(model), base)
    assert attached.active == (None,)
    assert repr(attached) == "Attached(4 tasks, detached)"


def test_several_bundles(model, bundle_of, tmp_path) -> None:
    sources = adapters(tmp_path / "a")
    merge([sources[0], f"pl={sources[1]}"], tmp_path / "own.safetensors", error=0.05, workers=1)
    paths = [bundle_of("shared-input"), tmp_path / "own.safetensors"]
    with attach(model, paths) as attached:
        assert attached.tasks == ("shared-input:de", "en", "es", "fr", "own:de", "pl")
        got = {}
        for name in (*attached.tasks, "shared-input:en"):
            attached.set_task(name)
            got[name] = logits(model)
        with raises(TaskNotFoundError, got="'de'", expected="shared-input:de, own:de"):
            attached.set_task("de")
        assert attached.stats.decodes == 6
    assert torch.equal(got["en"], got["shared-input:en"])
    for name, path, own in (
        ("shared-input:de", paths[0], "de"), ("own:de", paths[1], "de"), ("pl", paths[1], "pl")
    ):  # fmt: skip
        assert close(got[name], expected(model, path, own))
    with raises(UsageError, got="own"):
        attach(model, [paths[1], open_bundle(paths[1])])
    with pytest.raises(UsageError):
        attach(model, [])
    with attach(model, {"a": paths[1], "b": paths[1]}) as attached:
        assert attached.tasks == ("a:de", "a:pl", "b:de", "b:pl")


def test_tasks_of_a_folder_have_heads_of_their_own(model, bundle_of, tmp_path) -> None:
    """Each task of a folder with an index is a bundle of its own, whose first stream is 0."""
    path, folder = bundle_of("all"), tmp_path / "folder"
    split(path, folder)
    assert not open_bundle(folder).is_whole
    made = []
    for place in (path, folder):
        with attach(model, place) as attached:
            held = {}
            for name in attached.tasks:
                attached.set_task(name)
                held[name] = logits(model)
            made.append(held)
    assert all(torch.equal(made[0][name], made[1][name]) for name in TASKS)
    assert not torch.equal(made[1]["de"], made[1]["en"])


def test_gradients_flow_to_the_inputs(model, bundle_of) -> None:
    path = bundle_of("two-sided")
    embedded = model.get_input_embeddings()(IDS)

    def gradient() -> torch.Tensor:
        x = embedded.clone().requires_grad_()
        model(inputs_embeds=x).logits.square().sum().backward()
        assert x.grad is not None
        return x.grad

    # Attached, decoded and first used in inference mode, whose tensors no gradient may meet.
    with torch.inference_mode():
        made = attach(model, path)
    with made as attached:
        with torch.inference_mode():
            attached.set_task("de")
            model(input_ids=IDS)
        got = gradient()
        attached.set_task(None)
        plain = gradient()
    from hydraopt.model import attached as reference, place

    factors = {p: (x.B, x.A) for p, x in open_bundle(path)["de"].factors().items()}
    with reference(model, place(model, factors)):
        right = gradient()
    assert (got - right).norm() < 1e-4 * right.norm()
    assert (got - plain).norm() > 0.1 * right.norm()


HEAD = "base_model.model.lm_head.weight"


@pytest.mark.parametrize(
    ("extra", "config", "reason"),
    [
        ({HEAD: (258, 32)}, {"modules_to_save": ["lm_head"]}, r"lm_head.weight .*\(259, 32\)"),
        ({f"base_model.model.{Q}.bias": (32,)}, {"bias": "lora_only"}, "of kind bias"),
        (
            {f"base_model.model.{Q}.lora_magnitude_vector": (32,)},
            {"use_dora": True},
            "of kind dora_magnitude",
        ),
        ({}, {"init_lora_weights": "pissa"}, "an initialisation that changes the base, pissa"),
        ({}, {"alora_invocation_tokens": [1, 2]}, "the setting alora_invocation_tokens"),
    ],
)
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_more_than_factors_is_refused(model, tmp_path, extra, config, reason, lossless) -> None:
    sources = adapters(tmp_path / "a")
    rng = np.random.default_rng(0)
    pair = {Q: (rng.standard_normal((32, 2)), rng.standard_normal((2, 32)))}
    values = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in extra.items()}
    odd = write_adapter(tmp_path / "odd", pair, extras=values, **config)
    # A plain adapter with the same factors shares the stream, but not the refusal.
    twin = write_adapter(tmp_path / "twin", pair)
    limit: dict[str, Any] = {"lossless": True} if lossless else {"error": 0.3}
    merge([sources[0], odd, twin], tmp_path / "b", workers=1, **limit)
    with attach(model, tmp_path / "b") as attached:
        attached.set_task("twin")
        with raises(UsageError, file="b", expected="low-rank"):
            attached.set_task("odd")
        with pytest.raises(UsageError, match=reason):
            attached.set_tasks(["de", "odd"])
        assert attached.active == ("twin",)


def test_errors_are_typed(model, tmp_path) -> None:
    (tmp_path / "b").write_bytes(b"no bundle")
    with pytest.raises(HydraoptError):
        attach(model, tmp_path / "b")
    assert hydraopt.attach is attach


def test_large_steps_do_not_leave_fp16() -> None:
    rng = np.random.default_rng(0)
    big = 1e6 * rng.standard_normal((8, 2))
    small = np.array([2.0**-44, 2.0**-40])
    mode = Mode(Way.EXPLICIT, Way.PREDICTED)
    record = SplitRecord(SplitSide(None, big), SplitSide(big[:5], big), small, mode)
    place = ModulePlace("h", nn.Linear(8, 8), torch.device("cpu"), torch.float16)
    basis = np.linalg.qr(rng.standard_normal((8, 5)))[0]
    own = module_head(site_of(place, None, basis), record)
    dense = big * small @ (basis @ big[:5] + big).T
    got = own(torch.eye(8, dtype=torch.float16)).T.double().numpy()
    assert np.linalg.norm(got - dense) < 2e-3 * np.linalg.norm(dense)


class Quantised(nn.Module):
    """As a 4-bit layer looks from outside: packed bytes, and the type that it computes in."""

    def __init__(self, weight: torch.Tensor, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.compute_dtype = compute_dtype
        self.register_buffer("weight", torch.zeros(weight.numel() // 2, dtype=torch.uint8))
        self._dense = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = nn.functional.linear(x.to(self.compute_dtype), self._dense)
        return y.to(x.dtype)


def one_module(folder: Path, path: str, m: int, n: int) -> Path:
    rng = np.random.default_rng(3)
    pair = {path: (rng.standard_normal((m, 2)), rng.standard_normal((2, n)))}
    source = write_adapter(folder / "one", pair)
    merge([source], folder / "one.hydra.safetensors", lossless=True)
    return folder / "one.hydra.safetensors"


def dense(bundle: Path, path: str) -> torch.Tensor:
    factors = open_bundle(bundle)["one"].factors()[path]
    return torch.from_numpy(factors.B @ factors.A).float()


def test_layers_that_are_like_linear_ones(tmp_path) -> None:
    from transformers.pytorch_utils import Conv1D

    bundle = one_module(tmp_path, "h.proj", 6, 10)
    change, x = dense(bundle, "h.proj"), torch.randn(2, 3, 10)
    net = nn.ModuleDict({"h": nn.ModuleDict({"proj": Conv1D(6, 10)})})
    plain = net["h"]["proj"](x)
    with attach(net, bundle) as attached, attached.task("one"):
        assert close(net["h"]["proj"](x), plain + x @ change.T)
        assert close(net["h"]["proj"](x=x), plain + x @ change.T)  # by keyword
    weight = torch.randn(6, 10)
    net = nn.ModuleDict(
        {"h": nn.ModuleDict({"proj": Quantised(weight.bfloat16(), torch.bfloat16)})}
    )
    plain = net["h"]["proj"](x)
    with attach(net, bundle) as attached, attached.task("one"):
        got = net["h"]["proj"](x)
        assert got.dtype is x.dtype
        # Held in the type that the layer computes in: eight bits and no more.
        assert attached.memory().cached == 2 * 2 * (6 + 10)
        error = (got - plain - x @ change.T).norm() / (x @ change.T).norm()
        assert 1e-4 < error < 1e-2


def test_what_was_multiplied_out_under_autocast_serves_without_it(model, bundle_of) -> None:
    path = bundle_of("shared-input")
    right = expected(model, path, "de")
    with attach(model, path) as attached:
        attached.set_task("de")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(IDS)
        assert attached.memory().active > 0  # multiplied out
        assert close(logits(model), right)


def test_the_tasks_of_the_rows_may_come_from_a_generator(model, bundle_of) -> None:
    with attach(model, bundle_of("all")) as attached:
        attached.set_tasks(name for name in ("de", "fr"))
        assert attached.active == ("de", "fr")
        first = logits(model, IDS[:2])
        attached.set_tasks(np.array(["de", "fr"]))
        assert torch.equal(logits(model, IDS[:2]), first)
        with pytest.raises(UsageError):
            attached.set_tasks(name for name in ())


def test_what_was_read_is_known_after_detaching(model, bundle_of) -> None:
    with attach(model, bundle_of("all")) as attached:
        attached.set_task("de")
        read = attached.stats.bytes_read
    assert attached.stats.bytes_read == read > 0
