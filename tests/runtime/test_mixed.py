"""Batches whose rows have tasks of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hydraopt import attach, merge
from hydraopt.errors import UsageError
from tests.raising import raises
from tests.runtime.conftest import FORM_NAMES, IDS, adapters, close, expected, logits

ROWS = (
    ("de", None, "fr", "en"),
    ("es", "es", "es", "es"),
    ("fr", "de", "fr", "de"),  # as many parts as rows only if repeated
    (None, None, "en", None),
    ("en", "de", "es", "fr"),
    ("es", "de", "es", "en"),  # two rows of one task and one of others
    (None, "fr", "fr", "en"),
)


@pytest.mark.parametrize("form", [*FORM_NAMES, "all", "lossless"])
def test_a_mixed_batch_is_row_by_row(model, bundle_of, form) -> None:
    path = bundle_of(form)
    right = {name: expected(model, path, name) for name in ("de", "en", "es", "fr", None)}
    with attach(model, path) as attached:
        for names in ROWS:
            attached.set_tasks(names)
            got = logits(model)
            for row, name in enumerate(names):
                assert close(got[row], right[name][row]), (names, row)
                assert name is None or not close(got[row], right[None][row])


@pytest.mark.parametrize("form", FORM_NAMES)
def test_in_bfloat16(model, bundle_of, form) -> None:
    narrow = copy.deepcopy(model).bfloat16()
    with attach(narrow, bundle_of(form)) as attached:
        attached.set_tasks(["de", None, "fr", "en"])
        got = logits(narrow)
        assert got.dtype is torch.bfloat16
        for row, name in enumerate(attached.active):
            with attached.task(name):
                right = logits(narrow)[row].float()
            assert (got[row].float() - right).norm() < 0.03 * right.norm()


class Products(TorchFunctionMode):
    """Counts linear products by the weight that they take."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            self.seen.append(id(args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["shared-input", "two-sided", "predicted"])
def test_shared_bases_are_passed_once_for_the_whole_batch(model, bundle_of, form) -> None:
    with attach(model, bundle_of(form)) as attached:
        attached.set_tasks(["de", "en", "es", "de"])
        with Products() as products:
            logits(model)
        for site in attached._bundles[0].sites.values():
            assert site.right is not None
            assert products.seen.count(id(site.right)) == 1
            if site.left is not None and form == "two-sided":
                assert products.seen.count(id(site.left)) == 1
        memory = attached.memory()
        assert memory.active > 0  # the stacks
        attached.set_task("de")
        assert attached.memory().active == 0


def test_rows_of_several_bundles(model, bundle_of, tmp_path) -> None:
    own = tmp_path / "own.safetensors"
    merge(adapters(tmp_path / "a"), own, error=0.05, forms=["two-sided"], workers=1)
    first = bundle_of("shared-input")
    ids = torch.cat([IDS, IDS.flip(0)])
    names = ["de", None, "en", "own:de", "own:fr", "shared-input:fr", "own:es", "es"]
    with attach(model, [first, own]) as attached:
        names = [x if x is None or ":" in x else f"shared-input:{x}" for x in names]
        attached.set_tasks(names)
        got = logits(model, ids)
    for row, name in enumerate(names):
        label, _, task = (name or "").partition(":")
        right = expected(model, own if label == "own" else first, task or None, ids)
        assert close(got[row], right[row])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["all", "shared-input", "private"])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_generation_is_row_by_row(model, bundle_of, form, options) -> None:
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
    # The trained model says much the same to all these prompts, one of random weights does not.
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.3, generator=generator)
    names = ["de", None, "fr", "en"]

    def answers(ids: torch.Tensor, use_cache: bool = True) -> list[list[list[int]]]:
        """By row and sequence, up to the end token."""
        mask = torch.ones_like(ids)
        found = model.generate(input_ids=ids, attention_mask=mask, use_cache=use_cache, **settings)[
            :, ids.shape[1] :
        ]
        cut = [x[: x.index(2)] if 2 in x else x for x in found.tolist()]
        each = len(cut) // ids.shape[0]
        return [cut[i : i + each] for i in range(0, len(cut), each)]

    with attach(model, bundle_of(form)) as attached:
        attached.set_tasks(names)
        got = answers(IDS)
        for row, name in enumerate(names):
            with attached.task(name):
                assert got[row] == answers(IDS[row : row + 1])[0]
        assert got == answers(IDS, use_cache=False)
        with attached.task(None):
            base = answers(IDS)
        assert got[names.index(None)] == base[names.index(None)]
        assert got != base  # the tasks do something


def test_a_multiple_of_the_rows_repeats_each(model, bundle_of) -> None:
    path = bundle_of("shared-input")
    right = {name: expected(model, path, name) for name in ("de", "fr")}
    with attach(model, path) as attached:
        attached.set_tasks(["de", "fr"])
        got = logits(model)
        assert close(got[:2], right["de"][:2])
        assert close(got[2:], right["fr"][2:])
        with raises(UsageError, module="model.layers.0.self_attn.q_proj"):
            logits(model, IDS[:3])
        attached.set_tasks(["de", "fr", "de", "fr", "de"])
        with raises(UsageError, module="model.layers.0.self_attn.q_proj"):
            logits(model)
        for nothing in ([], "de"):
            with pytest.raises(UsageError):
                attached.set_tasks(nothing)


def test_inputs_without_rows_are_refused(model, bundle_of) -> None:
    with attach(model, bundle_of("two-sided")) as attached:
        attached.set_tasks(["de", "fr"])
        module = model.get_submodule("model.layers.0.self_attn.q_proj")
        x = torch.randn(2, 32)
        both = module(x)  # one token of each row
        for row, name in enumerate(["de", "fr"]):
            with attached.task(name):
                assert close(both[row], module(x[row : row + 1])[0])
        with raises(UsageError, module="model.layers.0.self_attn.q_proj"):
            module(torch.randn(18, 32))
        # Experts get the tokens that a router sent them.
        adder = attached._chosen.adders["model.layers.0.self_attn.q_proj"]
        adder._name = "model.layers.0.mlp.experts.3.up_proj"
        with raises(UsageError, module="model.layers.0.mlp.experts.3.up_proj"):
            module(x)


def test_gradients_flow_through_a_mixed_batch(model, bundle_of) -> None:
    embedded = model.get_input_embeddings()(IDS)
    names = ["de", None, "fr", "fr"]

    def gradient() -> torch.Tensor:
        x = embedded.clone().requires_grad_()
        model(inputs_embeds=x).logits.square().sum().backward()
        assert x.grad is not None
        return x.grad

    for form in ("predicted", "shared-output"):
        with attach(model, bundle_of(form)) as attached:
            with torch.inference_mode():
                attached.set_tasks(names)
                model(input_ids=IDS)
            got = gradient()
            for row, name in enumerate(names):
                attached.set_task(name)
                right = gradient()[row]
                assert (got[row] - right).norm() < 1e-4 * right.norm()
