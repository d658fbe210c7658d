"""Each of PEFT's tuners: made by PEFT, read, merged, verified, exported, and loaded by PEFT."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.raising import raises

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from benchmarks.quality.peft_adapters import CASES, Case, base_model, loaded_logits, make
from hydraopt import merge, open_bundle
from hydraopt.adapters import read_adapter, tuner_named
from hydraopt.adapters.tuners import TUNERS, owner_of
from hydraopt.bundle import TaskAdapter, verify_bundle
from hydraopt.errors import AdapterFormatError, ExportError, HydraoptError, UsageError
from hydraopt.export import FORMATS, export_task
from hydraopt.merging import apply
from hydraopt.serve.bundles import obstacles

ERROR = 0.02
LOOSE = 3.0
"""How much more the logits may be off than what is coded."""
PRODUCTS = {"RANDLORA": 5.0}
"""The same, where an error of each of four tensors multiplies."""
BY_NAME = {case.name: case for case in CASES}
OFTEN = {"PREFIX_TUNING"}
"""Cases of the default suite beside those of :func:`is_unlike_others`."""


def is_unlike_others(case: Case) -> bool:
    """Return whether a tuner has another treatment, or other kinds of tensors, than most."""
    tuner = TUNERS[case.tuner]
    return (tuner.treatment, set(tuner.parts.values())) != ("tensors", {"tuner"})


MERGED = [
    pytest.param(
        case,
        id=case.name,
        marks=()
        if case.name in OFTEN or (case.name == case.tuner and is_unlike_others(case))
        else pytest.mark.slow,
    )
    for case in CASES
    if TUNERS[case.tuner].treatment != "refused"
]


@functools.cache
def base_logits(kind: str) -> Any:
    return loaded_logits(Case(kind, "LORA", model=kind), None)


def bundled(folder: Path, *names: str, **limit: Any) -> dict[str, TaskAdapter]:
    """The cases of these names as tasks t0, t1, ... of one bundle."""
    for i, name in enumerate(names):
        make(BY_NAME[name], folder / f"t{i}", seed=i + 1)
    adapters = [read_adapter(folder / f"t{i}") for i in range(len(names))]
    merge(adapters, folder / "b.hydra.safetensors", **(limit or {"max_error": ERROR}))
    report = verify_bundle(folder / "b.hydra.safetensors", adapters)
    assert report.problems == []
    return dict(open_bundle(folder / "b.hydra.safetensors"))


def test_every_tuner_of_peft_has_a_row_and_a_case() -> None:
    from peft import PeftType

    assert {x.value for x in PeftType} <= set(TUNERS)
    made = {x.tuner for x in CASES} | {x.name for x in CASES}
    assert set(TUNERS) - made == {"BONE", "LORA, Arrow"}


@pytest.mark.parametrize("case", MERGED)
def test_what_comes_back_is_the_same_tuner_and_does_the_same(case: Case, tmp_path: Path) -> None:
    task = bundled(tmp_path, case.name)["t0"]
    assert task.error <= ERROR
    task.save_pretrained(tmp_path / "out")
    original, export = read_adapter(tmp_path / "t0"), read_adapter(tmp_path / "out")
    assert list(export.tensors) == list(original.tensors)
    assert export.extra_kinds == original.extra_kinds
    if case.tuner != "LORA" or tuner_named(original.config) != "LORA":
        before, after = (json.loads((tmp_path / x / "adapter_config.json").read_text()) for x in
                         ("t0", "out"))  # fmt: skip
        assert before == after
        assert {k: x.shape for k, x in export.tensors.items()} == {
            k: x.shape for k, x in original.tensors.items()
        }
    wanted, got = (loaded_logits(case, tmp_path / x) for x in ("t0", "out"))
    change = np.linalg.norm(wanted - base_logits(case.model))
    assert change > 0.01 * np.linalg.norm(wanted), "the adapter does nothing"
    assert np.linalg.norm(got - wanted) < PRODUCTS.get(case.name, LOOSE) * ERROR * change


def test_a_router_is_refused_by_name(tmp_path: Path) -> None:
    make(BY_NAME["XLORA"], tmp_path / "x")
    with raises(AdapterFormatError, file="adapter_config.json"):
        read_adapter(tmp_path / "x")


@pytest.mark.slow
def test_kinds_mix_in_one_bundle(tmp_path: Path) -> None:
    names = ("LORA", "LOHA", "LOKR", "LOKR, both decomposed", "ADALORA", "IA3", "OFT")
    for i, task in enumerate(bundled(tmp_path, *names).values()):
        task.save_pretrained(tmp_path / f"out{i}")
        assert task.config["peft_type"] == BY_NAME[names[i]].tuner
        wanted, got = (loaded_logits(BY_NAME[names[i]], tmp_path / f"{x}{i}") for x in ("t", "out"))
        change = np.linalg.norm(wanted - base_logits("text"))
        assert np.linalg.norm(got - wanted) < LOOSE * ERROR * change


@pytest.mark.parametrize("name", ["ADALORA, ranks cut", "LOHA", "LOKR", "IA3", "VBLORA"])
def test_lossless_is_bit_by_bit_and_can_be_written_in_another_dtype(
    name: str, tmp_path: Path
) -> None:
    task = bundled(tmp_path, name, lossless=True)["t0"]
    task.save_pretrained(tmp_path / "out")
    task.save_pretrained(tmp_path / "half", dtype="bfloat16")
    original, same = read_adapter(tmp_path / "t0"), read_adapter(tmp_path / "out")
    assert {k: x.raw() for k, x in same.tensors.items()} == {
        k: x.raw() for k, x in original.tensors.items()
    }
    wanted, got = (loaded_logits(BY_NAME[name], tmp_path / x) for x in ("t0", "half"))
    change = np.linalg.norm(wanted - base_logits("text"))
    assert 0 <= np.linalg.norm(got - wanted) < 0.02 * change


@pytest.mark.parametrize("name", ["LOHA", "LOKR, both decomposed", "IA3", "LORA, KaSA"])
def test_others_refuse_by_the_tuners_name(name: str, tmp_path: Path) -> None:
    task = bundled(tmp_path, name)["t0"]
    tuner = tuner_named(task.config)
    base_model("text").save_pretrained(tmp_path / "base")
    for format in sorted(set(FORMATS) - {"peft"}):
        base = tmp_path / "base" if FORMATS[format].needs_base else None
        with pytest.raises(HydraoptError, match=tuner):
            export_task(task, tmp_path / format, format=format, base=base)
    assert any(tuner in x for x in obstacles(task))
    with pytest.raises(HydraoptError, match=tuner):
        apply([read_adapter(tmp_path / "t0")], "hydraopt")
    with raises(ExportError, adapter="t0"):
        task.save_pretrained(tmp_path / "uniform", uniform_rank=True)


def test_scoring_refuses_by_the_tuners_name(tmp_path: Path) -> None:
    from hydraopt.evaluate.results import Compared

    make(BY_NAME["LOHA"], tmp_path / "t0")
    adapter = read_adapter(tmp_path / "t0")
    with raises(UsageError, got="the tuner LOHA, factors of products"):
        Compared({"t0": adapter}, {}).check()


def test_adalora_is_a_lora_elsewhere(tmp_path: Path) -> None:
    task = bundled(tmp_path, "ADALORA")["t0"]
    export_task(task, tmp_path / "vllm", format="vllm")
    config = json.loads((tmp_path / "vllm" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert "init_r" not in config
    wanted, got = (loaded_logits(BY_NAME["ADALORA"], tmp_path / x) for x in ("t0", "vllm"))
    change = np.linalg.norm(wanted - base_logits("text"))
    assert np.linalg.norm(got - wanted) < LOOSE * ERROR * change


def test_no_name_of_lora_is_another_tuners() -> None:
    assert owner_of("base_model.model.q.lora_A.weight") is None
    assert owner_of("base_model.model.q.ia3_l") == "IA3"
