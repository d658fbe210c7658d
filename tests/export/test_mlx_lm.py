"""MLX adapter folders in mlx-lm itself: the logits are PEFT's. Needs mlx-lm and mlx[cpu]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from numpy.typing import NDArray

from hydraopt.bundle.peft.folder import export_peft
from hydraopt.export import export_mlx
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs, save_base
from tests.export.test_export_mlx import magnitudes
from tests.small_model import tiny_llama

pytestmark = [
    # What torch, transformers and mlx-lm deprecate, and PEFT says of missing keys, is not ours.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys"),
]
mx = pytest.importorskip("mlx.core", reason="mlx is not installed; it is no dependency of ours")
utils = pytest.importorskip("mlx_lm.utils", reason="mlx-lm is not installed; as mlx")

IDS = [[3, 5, 7, 9, 11]]


def in_mlx(base: Path, adapter: Path | None) -> NDArray[Any]:
    model, _ = utils.load_model(base)
    if adapter is not None:
        utils.load_adapters(model, str(adapter))
        model.eval()
    return np.array(model(mx.array(IDS)).astype(mx.float32))


def in_peft(adapter: Path) -> NDArray[Any]:
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(tiny_llama(), adapter)
        return np.asarray(model(torch.tensor(IDS)).logits.numpy())


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
def test_logits_are_those_of_peft(
    dora: bool, lossless: bool, with_base: bool, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base")
    plain = in_mlx(base, None)
    # The k_proj of the first layer is not changed, so one layer lacks what another has.
    modules = {path: (4 * b, 4 * a) for path, (b, a) in pairs().items()}
    del modules["model.layers.0.self_attn.k_proj"]
    options: dict[str, Any] = {}
    if dora:
        options = {"extras": magnitudes(modules), "use_dora": True}
    made = write_adapter(tmp_path / "numbers", modules, alpha=5, **options)
    task = bundled(tmp_path, made, lossless=lossless)["numbers"]
    export_mlx(task, tmp_path / "mlx", base=base if with_base else None)
    export_peft(task, tmp_path / "peft")
    found, expected = in_mlx(base, tmp_path / "mlx"), in_peft(tmp_path / "peft")
    assert np.abs(expected - plain).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)
