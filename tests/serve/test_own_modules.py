"""Tasks that bring an output layer of their own are served; classifiers are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge
from hydraopt.errors import UsageError
from hydraopt.serve import Limits, load_engine
from tests.conftest import write_adapter
from tests.runtime.conftest import pairs
from tests.serve.conftest import offline
from tests.serve.test_server import complete

LIMITS = Limits(prompt_tokens=100, answer_tokens=100)


def bundle(folder: Path, vocabulary: int, **config: Any) -> Path:
    """Task "plain", and "head" with the same factors and a saved tensor."""
    rng = np.random.default_rng(0)
    name = "score" if config else "lm_head"
    extra = {f"base_model.model.{name}.weight": rng.standard_normal((vocabulary, 32), np.float32)}
    settings = {"modules_to_save": [name], **config}
    tasks = [
        write_adapter(folder / "head", pairs(1, 3), extras=extra, **settings),
        write_adapter(folder / "plain", pairs(1, 3)),
    ]
    merge(tasks, folder / "b", error=0.1, workers=1)
    return folder / "b"


def test_a_task_answers_with_its_own_output_layer(serve, wild, tmp_path) -> None:
    path = bundle(tmp_path, len(wild[1]))
    asked = ("head", "plain", "head")
    right = [offline(wild, path, name, "x", 12)[0] for name in asked]
    with serve(LIMITS, bundle=path) as running:
        client = running.client()
        got = [complete(client, name).choices[0].text for name in asked]
    assert got == right
    assert right[0] != right[1]


def test_a_classifier_is_refused_by_name(wild, tmp_path) -> None:
    for part in wild:
        part.save_pretrained(tmp_path / "base")
    path = bundle(tmp_path, 3, task_type="SEQ_CLS")
    with pytest.raises(UsageError):
        load_engine(str(tmp_path / "base"), [str(path)], LIMITS)
