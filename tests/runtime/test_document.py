"""docs/reference/runtime.md is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hydraopt import merge
from tests.runtime.conftest import IDS, adapters, hooks_of, logits

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "runtime.md"


def test_the_python_runs(model, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.+?)^```$", text, re.MULTILINE | re.DOTALL)
    sources = zip(("dates-de", "dates-en", "numbers-de"), adapters(tmp_path / "a"), strict=False)
    monkeypatch.chdir(tmp_path)
    merge([f"{name}={x}" for name, x in sources], "phone.hydra.safetensors", error=0.05, workers=1)
    ids = IDS[:3]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= {"max_new_tokens": 2, "pad_token_id": 0}
    before = logits(model)
    names: dict[str, Any] = {"model": model, "inputs": inputs}
    for line, shown in re.findall(r"^(attached\.\S+) +# (\S+\(|\(\")", code, re.MULTILINE):
        code = code.replace(
            line, f"assert str({line}).startswith({shown.replace(chr(34), chr(39))!r})"
        )
    assert code.count("assert") == 3
    exec(code, names)
    assert torch.equal(logits(model), before)
    assert hooks_of(model) == 0
