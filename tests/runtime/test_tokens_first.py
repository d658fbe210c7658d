"""Mixed batches where modules see tokens first: refused, as tasks would go to tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hydraopt import attach
from hydraopt.bundle import Bundle
from hydraopt.errors import UsageError
from tests.conftest import write_adapter
from tests.export.targets import bundled
from tests.raising import raises
from tests.runtime.conftest import IDS, hooks_of, logits


def two_tasks(folder: Path, path: str, m: int, n: int) -> Bundle:
    """Tasks "a" and "b" that change one module (m, n)."""
    rng = np.random.default_rng(0)
    made = [
        write_adapter(
            folder / x, {path: (rng.standard_normal((m, 2)), rng.standard_normal((2, n)))}
        )
        for x in "ab"
    ]
    return bundled(folder, *made)


class TokensFirst(nn.Module):
    """Takes rows first and turns its inputs around, as XLNet does."""

    def __init__(self, turned: bool = True) -> None:
        super().__init__()
        self.turned = turned
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x.transpose(0, 1) if self.turned else x
        y: torch.Tensor = self.layer(x)
        return y.transpose(0, 1) if self.turned else y


@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 6, 8), (4, 2, 8), (4, 6, 8)])
@torch.no_grad()
def test_tokens_are_not_taken_for_rows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bundle = two_tasks(tmp_path, "layer", 8, 8)
    x, names = torch.randn(shape), ["a", "b"]
    for turned in (True, False):
        model = TokensFirst(turned)
        with attach(model, bundle) as attached:
            attached.set_tasks(names)
            if turned:
                for given in ({"x": x}, {"mask": None, "x": x}):
                    with pytest.raises(UsageError):
                        model(**given)
                with pytest.raises(UsageError):
                    model(x)
                # One task for all is right whatever is first.
                attached.set_tasks(["a", "a"])
                same = model(x)
                attached.set_task("a")
                torch.testing.assert_close(model(x), same)
                continue
            got = model(x)
            each = shape[0] // 2
            for i, name in enumerate(names):
                attached.set_task(name)
                rows = slice(i * each, (i + 1) * each)
                torch.testing.assert_close(got[rows], model(x)[rows])
        assert hooks_of(model) == 0


class Windows(nn.Module):
    """Cuts each row into two, as vision models do; rows of a window stay together."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(pixel_values.reshape(-1, pixel_values.shape[1] // 2, 8))
        return y.reshape(pixel_values.shape)


@torch.no_grad()
def test_multiples_of_the_rows_are_well(tmp_path: Path) -> None:
    model, x = Windows(), torch.randn(2, 6, 8)
    with attach(model, two_tasks(tmp_path, "layer", 8, 8)) as attached:
        attached.set_tasks(["a", "b"])
        got = model(pixel_values=x)
        for i, name in enumerate("ab"):
            attached.set_task(name)
            torch.testing.assert_close(got[i], model(pixel_values=x)[i])


def test_outside_of_a_pass_nothing_is_known(model: Any, bundle_of: Any) -> None:
    """A module that is called by itself has the rows that it is given."""
    with attach(model, bundle_of("two-sided")) as attached:
        attached.set_tasks(["de", "fr"])
        logits(model, IDS[:2])
        with pytest.raises(UsageError):
            logits(model, IDS[:3])
        model.get_submodule("model.layers.0.self_attn.q_proj")(torch.randn(4, 2, 32))


@torch.no_grad()
def test_xlnet_has_its_tokens_first(tmp_path: Path) -> None:
    from transformers import XLNetConfig, XLNetModel

    model = XLNetModel(XLNetConfig(vocab_size=40, d_model=16, n_layer=1, n_head=2, d_inner=24))
    with attach(model.eval(), two_tasks(tmp_path, "layer.0.ff.layer_1", 24, 16)) as attached:
        attached.set_tasks(["a", "b"])
        with raises(UsageError, module="layer.0.ff.layer_1"):
            model(torch.randint(0, 40, (2, 4)))
