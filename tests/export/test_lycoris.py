"""Files of lycoris-lora: merged, exported and loaded by it again, they have one effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hydraopt.bundle import open_bundle
from hydraopt.export import export_kohya
from hydraopt.merging import merge

lycoris = pytest.importorskip(
    "lycoris", reason="lycoris-lora is not installed; see the extra 'engines'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch deprecates is not ours

NAME = "lora_unet_down_blocks_0_layer"
TUCKER, BOTH = {"use_tucker": True}, {"decompose_both": True}
# (method, layer, settings); rank 2 and alpha 1 unless set.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("locon", "linear", {}),
    ("locon", "linear", {"alpha": 0}),
    ("locon", "linear", {"rs_lora": True}),
    ("locon", "linear", {"weight_decompose": True}),
    ("locon", "conv", {}),
    ("locon", "conv", TUCKER),
    ("dylora", "linear", {"block_size": 2}),
    ("loha", "linear", {}),
    ("loha", "linear", {"rs_lora": True}),
    ("loha", "linear", {"weight_decompose": True}),
    ("loha", "conv", {}),
    ("loha", "conv", TUCKER),
    ("lokr", "linear", {}),
    ("lokr", "linear", {"alpha": 0}),
    ("lokr", "linear", BOTH),
    ("lokr", "linear", {"full_matrix": True}),
    ("lokr", "linear", {"weight_decompose": True}),
    ("lokr", "conv", {}),
    ("lokr", "conv", {**BOTH, **TUCKER}),
    ("full", "linear", {}),
    ("full", "conv", {}),
    ("norm", "norm", {}),
    ("glora", "linear", {}),
    ("ia3", "linear", {}),
    ("diag-oft", "linear", {"lora_dim": 6}),
    ("boft", "linear", {"lora_dim": 6}),
]


def layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "linear": lambda: nn.Linear(36, 48),
        "conv": lambda: nn.Conv2d(36, 48, 3, padding=1),
        "norm": lambda: nn.LayerNorm(36),
    }
    return made[kind]()


def tensors(method: str, kind: str, settings: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """A module of lycoris at random, as lycoris saves it."""
    from lycoris.modules.norms import NormModule
    from lycoris.wrapper import network_module_dict

    cls = {**network_module_dict, "norm": NormModule}[method]
    made = cls(NAME, layer(kind), 1.0, **{"lora_dim": 2, "alpha": 1, **settings})
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "dora_scale" not in name and "rescale" not in name:
                parameter.copy_(torch.randn_like(parameter) / 2)
    if method == "full":
        state = {"diff": made.weight, "diff_b": made.bias}
    else:
        state = made.custom_state_dict() if hasattr(made, "custom_state_dict") else {}
        state = state or made.state_dict()
    return {f"{NAME}.{k}": x.detach().clone().contiguous() for k, x in state.items()}


def inputs(kind: str) -> torch.Tensor:
    torch.manual_seed(9)
    return torch.randn(3, 36, 5, 5) if kind == "conv" else torch.randn(3, 36)


def output(state: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """What lycoris makes of a layer's output with a file."""
    from lycoris.modules import get_module, make_module

    base = layer(kind)
    method, parameters = get_module(state, NAME)
    if method.name == "ia3":
        # lycoris-lora 4.1.3 cannot load its own: on_input is one parameter too many.
        parameters = parameters[:1]
    wrapped = make_module(method, parameters, NAME, base)
    wrapped.apply_to()
    with torch.no_grad():
        return base(inputs(kind))


@pytest.mark.parametrize("limit", [{"lossless": True}, {"error": 0.01}])
@pytest.mark.parametrize(("method", "kind", "settings"), CASES)
def test_lycoris_computes_the_same_with_what_comes_back(
    method: str, kind: str, settings: dict[str, Any], limit: dict[str, Any], tmp_path: Path
) -> None:
    for seed in (1, 2):
        save_file(tensors(method, kind, settings, seed), tmp_path / f"style{seed}.safetensors")
    files = sorted(tmp_path.glob("style*"))
    bundle = tmp_path / "b.hydra.safetensors"
    merge(files, bundle, workers=1, **limit)
    for file in files:
        target = tmp_path / f"out-{file.name}"
        export_kohya(open_bundle(bundle)[file.stem], target)
        before, after = load_file(file), load_file(target)
        assert set(before) == set(after)
        expected, found = output(before, kind), output(after, kind)
        with torch.no_grad():
            change = expected - layer(kind)(inputs(kind))
        assert change.norm() > 0.02 * expected.norm()
        error = (found - expected).norm() / change.norm()
        assert error < (0.05 if "error" in limit else 1e-6)
