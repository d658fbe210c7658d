"""A bundle with hostile names and measured harm, its originals, and a result that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hydraopt.bundle import Added, Harm, open_bundle, pack_bundle
from hydraopt.merging import merge
from tests.conftest import write_adapter

HOSTILE = "<script>alert(1)<!--data--> & \"q\" 'x' `y` |z| ${1}-de"
NAMES = ("dates-de", "dates-en", "dates-fr", "moods-de", "moods-en", HOSTILE)
PATHS = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(3) for x in "qv"]
OWN = "six.hydra.safetensors"


class Made(NamedTuple):
    """bundle, result: files. adapters: the folder of the originals."""

    bundle: Path
    result: Path
    adapters: Path


def _factors(seed: int) -> dict[str, Any]:
    rng, common = np.random.default_rng(seed), np.random.default_rng(99)
    return {
        path: (
            rng.standard_normal((40, 4)) * 2.0 ** -np.arange(4),
            common.standard_normal((4, 32)) + 0.3 * rng.standard_normal((4, 32)),
        )
        for path in PATHS
    }


def _judged(bundle: Path) -> None:
    """The same bundle, as a merge with prompts would have left it, one task added later."""
    opened = open_bundle(bundle)
    tasks = []
    for i, task in enumerate(opened.manifest.tasks):
        harm = Harm(4 * i, 64, 0.06 * i + 0.001, 0.02 * i, True)
        added = Added("2026-11-20", "0123456789abcdef") if task.name == "moods-en" else None
        notes = ("<b>note</b> of a task",) if task.name == HOSTILE else ()
        tasks.append(dataclasses.replace(task, harm=harm, added=added, notes=notes))
    manifest = dataclasses.replace(opened.manifest, tasks=tuple(tasks))
    streams = [opened.read(f"task/{i}") for i in range(opened.manifest.streams)]
    pack_bundle(manifest, opened.read("shared"), streams, []).write(bundle)


def _scored(name: str, i: int) -> dict[str, Any]:
    group, _, language = name.rpartition("-")
    change = {"difference": -2.0 * i, "low": -3.0 * i, "high": 0.0, "deviation": 0.5 * i}
    own = {
        "loss": 0.1, "exact": 90.0, "scores": {"exact match": 90.0 - 2 * i},
        "changed": i, "changed_pct": 100 * i / 12, "kl_answer": 0.01 * i,
        "difference": {"exact match": change},
    }  # fmt: skip
    answer = {
        "row": 3,
        "input": "<img src=x onerror=alert(2)>",
        "expected": "1 May 2011",
        "texts": {
            "base": "2011",
            "original": "1 May 2011",
            OWN: "1 June 2011" if i else "1 May 2011",
        },
        "changed": [OWN] if i else [],
    }
    same = {**answer, "row": 0, "texts": {**answer["texts"], OWN: "1 May 2011"}, "changed": []}
    return {
        "adapter": name, "task": group, "language": language, "metric": "exact match",
        "rows": 12, "left_out": 0, "tokens": 90,
        "results": {
            "base": {"loss": 2.0, "scores": {"exact match": 1.0}},
            "original": {"loss": 0.1, "scores": {"exact match": 90.0}},
            OWN: own,
            "less.hydra.safetensors": {**own, "changed_pct": 50.0, "kl_answer": 1.0},
        },
        "answers": [same, answer],
    }  # fmt: skip


def _people() -> dict[str, Any]:
    """What probes could have said of a task."""
    share = {"pct": 60.0, "low": 50.0, "high": 70.0}
    change = {"flips": 9, "towards": 8, "away": 1, "p_holm": 0.04}
    plain = {"items": 40, "preference": share}
    said = {**plain, "change": change}
    groups = {HOSTILE: said, "all": {**said, "change": {**change, "p_holm": 1.0}}}
    return {
        "probes": {
            "winobias": {"original": {HOSTILE: plain, "all": plain}, OWN: groups},
            "kobbq": {OWN: {"all": {**said, "items": "many"}}, "original": {"all": plain}},
            "skipped": "no",
        },
    }


def result_of(bundle: Path) -> dict[str, Any]:
    """What hydraopt eval could have said of the bundle, and of a smaller one."""
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    return {
        "schema": "hydraopt.eval/1",
        "base": {"name": "tiny", "sha256": "0" * 64},
        "bundles": {
            OWN: {"bytes": bundle.stat().st_size, "sha256": digest},
            "less.hydra.safetensors": {"bytes": bundle.stat().st_size // 2, "sha256": "1" * 64},
        },
        "fp16_bytes": 1,
        "split": "test",
        "limits": {"rows": 12, "tokens": None},
        "products": "float32",
        "seed": 0,
        "versions": {"hydraopt": "0.1.0"},
        "tasks": [
            {**_scored(name, i), **(_people() if name == "moods-en" else {})}
            for i, name in enumerate(NAMES)
        ],
    }


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("report")
    for i, name in enumerate(NAMES):
        write_adapter(folder / "adapters" / name, _factors(i))
    bundle = folder / OWN
    merge(folder / "adapters" / "*", bundle, size="30%", workers=1)
    _judged(bundle)
    result = folder / "eval.json"
    result.write_text(json.dumps(result_of(bundle)), encoding="utf-8")
    return Made(bundle, result, folder / "adapters")
