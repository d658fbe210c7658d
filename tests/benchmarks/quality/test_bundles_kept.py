"""Bundles of the evidence are made again when the code, the adapters or the options change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.quality import evidence
from benchmarks.quality.sets import Method
from hydraopt.adapters import read_adapters


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Sizes that were merged."""
    sizes: list[str] = []

    def merge(adapters, path: Path, size: str, **_: object) -> SimpleNamespace:
        sizes.append(size)
        path.write_bytes(b"x")
        return SimpleNamespace(size=1, fraction=0.1, errors={}, forms={}, seconds=0.0)

    monkeypatch.setattr(evidence, "merge", merge)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    return sizes


def test_a_bundle_of_other_adapters_or_options_is_not_used_again(
    made, make_adapter, tmp_path: Path, monkeypatch
) -> None:
    def adapters(seed: int):
        rng = np.random.default_rng(seed)
        pair = rng.standard_normal((16, 2)), rng.standard_normal((2, 16))
        folder = make_adapter(tmp_path / str(seed) / "a", {"model.layers.0.self_attn.q_proj": pair})
        return read_adapters([folder])

    method = Method("hydraopt", "5%")

    def ask(seed: int, of: Method = method) -> None:
        evidence.merged("gemma3-5x8", adapters(seed), of, tmp_path)

    ask(0)
    ask(0)
    assert len(made) == 1
    ask(1)
    assert len(made) == 2
    ask(1, dataclasses.replace(method, options={"fair": True}))
    assert len(made) == 3
    monkeypatch.setattr(evidence, "package_hash", lambda: "other code")
    ask(1)
    assert len(made) == 4


def test_a_bundle_of_other_code_is_used_where_that_is_asked(
    made, make_adapter, tmp_path: Path, monkeypatch, capsys
) -> None:
    pair = np.ones((16, 2)), np.ones((2, 16))
    folder = make_adapter(tmp_path / "a", {"model.layers.0.self_attn.q_proj": pair})
    adapters, method = read_adapters([folder]), Method("hydraopt", "5%")

    def ask(keep: bool, of: Method = method) -> str:
        path, said = evidence.merged("gemma3-5x8", adapters, of, tmp_path, keep)
        assert path.is_file()
        return said["code"].partition("-")[0]

    code = ask(keep=True)
    monkeypatch.setattr(evidence, "package_hash", lambda: "other")
    assert ask(keep=True) == code  # and the note says of which code it is
    assert f"kept, of the code {code}" in capsys.readouterr().out
    assert len(made) == 1
    assert ask(keep=True, of=dataclasses.replace(method, options={"fair": True})) == "other"
    assert len(made) == 2
    (tmp_path / "build" / "evidence" / "gemma3-5x8" / method.label).write_bytes(b"cut off or so")
    monkeypatch.setattr(evidence, "package_hash", lambda: "a third")
    assert ask(keep=True) == ask(keep=False) == "a third"
    monkeypatch.setattr(evidence, "package_hash", lambda: "a fourth")
    assert ask(keep=False) == "a fourth"


def test_a_bundle_is_made_again_where_it_is_gone_or_prompts_are_others(
    made, make_adapter, tmp_path: Path, monkeypatch
) -> None:
    pair = np.ones((16, 2)), np.ones((2, 16))
    folder = make_adapter(tmp_path / "spell-en", {"model.layers.0.self_attn.q_proj": pair})
    adapters = read_adapters([folder])
    rows = tmp_path / "tasks" / "spell" / "en" / "train.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text('{"input": "a", "target": "b"}\n')
    monkeypatch.setattr(evidence, "options_of", lambda *_: {})

    def ask(**options: object) -> Path:
        method = Method("hydraopt", "5%", options)
        return evidence.merged("gemma3-5x8", adapters, method, tmp_path / "tasks", keep=True)[0]

    ask(judge={}).unlink()
    ask(judge={})
    assert len(made) == 2
    rows.write_text('{"input": "a", "target": "c"}\n')
    ask(judge={})
    assert len(made) == 3, "made for other prompts"
    ask()
    rows.write_text('{"input": "a", "target": "d"}\n')
    ask()
    assert len(made) == 4, "nobody asked for prompts"


def test_results_to_take_from_are_named_by_plan(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "QUALITY", tmp_path)
    for name in ("few.harm.json", "few-half.harm.json"):
        (tmp_path / name).write_text("{}")
    assert evidence._result("few", "harm").name == "few.harm.json"
    assert evidence._result("few", "half.harm").name == "few-half.harm.json"
    with pytest.raises(SystemExit, match=r"--take.*few\.curves\.json"):
        evidence._result("few", "curves")
