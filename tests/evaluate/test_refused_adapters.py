"""What hydraopt eval does not put on a model as PEFT does is refused, not scored wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge
from hydraopt.adapters import read_adapters
from hydraopt.bundle import open_bundle
from hydraopt.errors import UsageError
from hydraopt.evaluate.results import Compared


@pytest.mark.parametrize("bundled", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        {"init_lora_weights": "pissa_niter_4"},
        {"alora_invocation_tokens": [5, 6]},
        {"layer_replication": [[0, 1], [0, 1]]},
    ],
)
def test_settings_by_which_peft_computes_something_else(
    setting: dict[str, Any], bundled: bool, make_adapter, tmp_path: Path
) -> None:
    modules = {"h.0.q": (np.ones((8, 2)), np.ones((2, 8)))}
    adapters = read_adapters([make_adapter(tmp_path / "x", modules, **setting)])
    compared = Compared({"x": adapters[0]}, {})
    if bundled:
        merge(adapters, tmp_path / "b.hydra.safetensors", lossless=True)
        compared = Compared({}, {"b": open_bundle(tmp_path / "b.hydra.safetensors")})
    with pytest.raises(UsageError):
        compared.check()


def test_plain_ones_are_not(make_adapter, tmp_path: Path) -> None:
    modules = {"h.0.q": (np.ones((8, 2)), np.ones((2, 8)))}
    (adapter,) = read_adapters([make_adapter(tmp_path / "x", modules, init_lora_weights="eva")])
    Compared({"x": adapter}, {}).check()
