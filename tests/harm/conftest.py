"""The small trained model, adapters of it with prompts, and judges of all kinds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import read_adapters
from hydraopt.merging import DEFAULT_HARM
from hydraopt.model import AnswerJudge, Encoded, JsonCache, judge as judge_module
from tests.basemodel.conftest import base
from tests.harm.cases import adapters_at, laid_out, rows
from tests.harm.power_judge import FALLING, SCALES, THREE_LAYERS
from tests.small_model import trained

__all__ = ["base", "trained"]


@pytest.fixture
def place(trained, tmp_path: Path) -> Path:
    """What a merge by harm takes; see :func:`laid_out`."""
    return laid_out(tmp_path, trained, 0.2)


@pytest.fixture
def judge_of(trained, base: Path, tmp_path: Path) -> Callable[..., AnswerJudge]:
    """Makes judges over one memory.

    prompts: by task; or so many of "fr".
    seeds: of each adapter's factors; default all of one content.
    writes: whether the base writes more prompts, where there are few.
    """
    numbers = itertools.count()

    def make(
        prompts: int | Mapping[str, Sequence[str]] = 24,
        size: float = 0.3,
        seeds: Mapping[str, int] | None = None,
        writes: bool = False,
        **more: Any,
    ) -> AnswerJudge:
        if not writes:
            settings = more.get("settings", DEFAULT_HARM)
            more["settings"] = dataclasses.replace(settings, synthetic_prompts=0)
        if isinstance(prompts, int):
            prompts = {"fr": rows(range(prompts))}
        seeds = seeds or dict.fromkeys(prompts, 0)
        # Not written over those of another judge, which reads them when it needs them.
        adapters = adapters_at(tmp_path / f"judge{next(numbers)}", size, **seeds)
        given = {"loaded": trained, "memory": JsonCache(tmp_path / "memory"), **more}
        return AnswerJudge(base, adapters, prompts, **given)

    return make


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts the model is asked each time; it says one token to each."""
    asked: list[int] = []

    def answered(model, tokenizer, prompts, *_):
        asked.append(len(prompts))
        return [Encoded(x.prompt, (3,)) for x in prompts]

    monkeypatch.setattr(judge_module, "answered", answered)
    return asked


@pytest.fixture(scope="session")
def adapters(make_adapter, tmp_path_factory: pytest.TempPathFactory):
    """Of no model, for a PowerJudge."""
    folder = tmp_path_factory.mktemp("power")
    folders = []
    for seed, name in enumerate(SCALES):
        rng = np.random.default_rng(seed)
        modules = {
            p: (rng.standard_normal((48, 4)), FALLING * rng.standard_normal((4, 40)))
            for p in THREE_LAYERS
        }
        folders.append(make_adapter(folder / name, modules))
    return read_adapters(folders)
