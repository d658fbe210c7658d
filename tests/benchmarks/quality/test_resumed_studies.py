"""Studies go on with rows of the same, and refuse a result that was made of something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import likely
from hydraopt.adapters import Adapter, read_adapters
from tests.small_model import ROWS

SET = "gemma3-5x8"
PATH = "model.layers.0.self_attn.q_proj"
Run = Callable[..., dict[str, Any]]


def runner(study: ModuleType, splits: Path, out: Path) -> Run:
    """Calls of a study with these options more; what it wrote."""

    def run(*given: str) -> dict[str, Any]:
        arguments = [SET, "--tasks", str(splits), "--only", "spell-en", "--out", str(out)]
        study.main([*arguments, *given])
        result: dict[str, Any] = json.loads(out.read_text())
        return result

    return run


@pytest.fixture
def splits(tasks: Path) -> Path:
    """The small task's rows in all splits, for two languages."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    for language in ("en", "de"):
        (tasks / "spell" / language).mkdir(exist_ok=True)
        for split in ("train", "validation", "test"):
            (tasks / "spell" / language / f"{split}.jsonl").write_text(text)
    return tasks


def _adapters(make_adapter: Any, folder: Path, seed: int) -> list[Adapter]:
    rng = np.random.default_rng(seed)
    made = []
    for language in ("en", "de"):
        pair = rng.standard_normal((8, 2)), rng.standard_normal((2, 8))
        made.append(make_adapter(folder / f"spell-{language}", {PATH: pair}))
    return list(read_adapters(made))


@pytest.fixture
def adapters(make_adapter: Any, tmp_path: Path) -> list[Adapter]:
    return _adapters(make_adapter, tmp_path / "adapters", 0)


@pytest.fixture
def others(make_adapter: Any, tmp_path: Path) -> list[Adapter]:
    return _adapters(make_adapter, tmp_path / "others", 1)


def refused(run: Run, what: str, out: Path, *given: str) -> None:
    """The run ends, says what to do, and leaves the result as it was."""
    before = out.read_text()
    with pytest.raises(SystemExit, match=f"{what}.*--out"):
        run(*given)
    assert out.read_text() == before


def without(out: Path, *fields: str) -> None:
    """As an older result, which did not say these."""
    result = json.loads(out.read_text())
    out.write_text(json.dumps({key: x for key, x in result.items() if key not in fields}))


NEW = ("splits", "sizes", "adapters", "code", "task files", "products", "base")


# --- likely ---------------------------------------------------------------------------------------


@pytest.fixture
def foretold(splits: Path, adapters: list[Adapter], tmp_path: Path, monkeypatch: Any) -> Run:
    out = tmp_path / "x.likely.json"

    def measured(_: Any, adapter: Adapter, *__: Any) -> list[dict[str, Any]]:
        return [{"task": adapter.name, "split": "test", "rows": __[-1]["test"]}]

    monkeypatch.setattr(likely, "QUALITY", tmp_path)
    monkeypatch.setattr(likely, "original_adapters", lambda _: adapters)
    monkeypatch.setattr(likely, "merged", lambda *_: (tmp_path, {}))
    monkeypatch.setattr(likely, "open_bundle", lambda _: None)
    monkeypatch.setattr(likely, "load_model", lambda _: None)
    monkeypatch.setattr(likely, "request_for", lambda *_: SimpleNamespace(base=""))
    monkeypatch.setattr(likely, "package_hash", lambda: "this", raising=False)
    monkeypatch.setattr(likely, "measured", measured)

    return runner(likely, splits, out)


def test_likely_goes_on_with_the_same(foretold: Run, tmp_path: Path) -> None:
    first = foretold()
    assert first["splits"] == {"train": 64, "validation": 64, "test": 150}
    assert [row["task"] for row in foretold()["rows"]] == ["spell-en"]
    both = foretold("--only", "spell-de")
    assert [row["task"] for row in both["rows"]] == ["spell-en", "spell-de"]
    assert len(both["task files"]) == 8  # of three splits and META.json each
    assert {**first, "rows": [], "task files": {}} == {
        **both,
        "rows": [],
        "task files": {},
        "hardware": first["hardware"],
    }


def test_likely_refuses_rows_of_something_else(
    foretold: Run, splits: Path, others: list[Adapter], tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "x.likely.json"
    foretold()
    refused(foretold, "other splits", out, "--rows", "80", "--only", "spell-de")
    refused(foretold, "other products", out, "--products", "float32")
    with monkeypatch.context() as other:
        other.setattr(likely, "original_adapters", lambda _: others)
        refused(foretold, "other adapters", out)
    with monkeypatch.context() as other:
        other.setattr(likely, "package_hash", lambda: "another")
        refused(foretold, "other code", out)
    file = splits / "spell" / "en" / "validation.jsonl"
    rows = file.read_text()
    file.write_text(rows.replace("seven", "7"))
    refused(foretold, "other task files", out)
    file.write_text(rows)
    foretold()
    meta = splits / "spell" / "META.json"
    meta.write_text(meta.read_text().replace('"instruction": "', '"instruction": "Please: '))
    refused(foretold, "other task files", out)


def test_likely_goes_on_with_an_older_result_and_says_no_more_of_it(
    foretold: Run, tmp_path: Path
) -> None:
    out = tmp_path / "x.likely.json"
    foretold()
    without(out, *NEW)
    found = foretold("--only", "spell-de", "--rows", "80")
    assert [row["rows"] for row in found["rows"]] == [150, 80]
    assert not {*NEW} & found.keys()


# --- refits ---------------------------------------------------------------------------------------
