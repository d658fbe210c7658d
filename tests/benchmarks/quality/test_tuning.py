"""Options are chosen on validation rows, and the rows that take them say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.harness import building, tuning
from benchmarks.quality.harness.tuning import GRIDS, best, chosen, scaled, tuned_options
from benchmarks.rivals.base import ReadBack, pack, tasks_of
from benchmarks.rivals.merging import METHODS
from benchmarks.rivals.one_for_all import one_for_all
from benchmarks.rivals.registry import Scene, rows_of
from hydraopt.adapters import read_adapters
from hydraopt.evaluate.run import encode_task
from hydraopt.evaluate.taskfile import read_task_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PATH = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapters(make_adapter, tmp_path: Path):
    rng = np.random.default_rng(0)
    folders = []
    for name in ("spell-en", "more", "third"):
        b, a = 0.1 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))
        folders.append(make_adapter(tmp_path / name, {PATH: (b, a)}))
    return read_adapters(folders)


def dense(modules) -> np.ndarray:
    b, a = modules[PATH]
    return b.astype(np.float64) @ a.astype(np.float64)


@pytest.mark.parametrize("method", GRIDS)
def test_one_merge_serves_all_scales(method: str, adapters, tmp_path: Path) -> None:
    """What tune scores is what a row with the chosen options writes."""
    tasks = tasks_of(adapters)
    options = next(GRIDS[method].built())
    unit = pack(one_for_all(method, 3, options), tasks, tmp_path / "unit").factors
    for scale in (0.3, 1.5):
        row = one_for_all(method, 3, {**options, GRIDS[method].scale: scale})
        made = pack(row, tasks, tmp_path / f"{scale}").factors
        for task in tasks:
            want = dense(made[task])
            off = np.linalg.norm(dense(scaled(unit[task], scale)) - want)
            # Both are stored in fp16.
            assert off < 2e-3 * np.linalg.norm(want)


@pytest.mark.parametrize("method", GRIDS)
def test_defaults_are_among_what_is_tried(method: str) -> None:
    grid, defaults = GRIDS[method], METHODS[method].defaults
    for name, values in grid.choices.items():
        assert defaults[name] in values
        assert list(values) == sorted(values)
    scales = grid.scales_for(7)
    assert scales == sorted(set(scales))
    assert (defaults["lam"] if grid.scale == "lam" else 1 / 7) in scales


def trial(method: str, loss: float, **options: float):
    return {"method": method, "options": options, "loss": loss, "losses": {"a": loss}}


def test_the_least_loss_is_chosen_and_an_edge_is_told() -> None:
    tried = [
        trial("base", 0.1),
        trial("ties", float("nan"), density=0.1, lam=3.0),
        trial("ties", 0.5, density=0.2, lam=1.0),
        trial("ties", 0.4, density=0.2, lam=3.0),
        trial("ties", 0.4, density=0.1, lam=1.0),
        trial("iso-c", 0.3, lam=0.2),
    ]
    found = chosen(tried, 4)
    assert found == {
        "ties": {"options": {"density": 0.2, "lam": 3.0}, "loss": 0.4, "at_edge": ["lam"]},
        "iso-c": {"options": {"lam": 0.2}, "loss": 0.3, "at_edge": []},
    }
    assert best(tried, "tsv-m") is None
    assert best([trial("ties", float("inf"), lam=1.0)], "ties") is None


def test_tuning_scores_each_value_once(adapters, tasks, trained, tmp_path: Path) -> None:
    text = (tasks / "spell" / "en" / "test.jsonl").read_text()
    (tasks / "spell" / "en" / "validation.jsonl").write_text(text)
    rows = encode_task(read_task_file(tasks, "spell", "en", "validation"), trained[1])
    names = [adapter.name for adapter in adapters]
    built = {}
    for label, (method, options, row) in tuning.trials(3, ["task-arithmetic", "peft-ties"]).items():
        note = building.measured(row, adapters, tmp_path / label)
        assert note["tuned"] == options
        back = ReadBack(row, tmp_path / label, names)
        built[label] = method, options, back, note["sha256"]
    seen: list = []
    originals = tasks_of([adapter for adapter in adapters if adapter.name == "spell-en"])

    def run(rivals_built, known) -> list:
        seen.clear()
        tuning.tune(
            rivals_built,
            originals,
            {"spell-en": rows},
            trained,
            3,
            known,
            lambda x: seen.append([*x]),
        )
        return json.loads(json.dumps(seen[-1]))

    first = {k: v for k, v in built.items() if v[0] == "task-arithmetic"}
    known = run(first, [])
    count = len(GRIDS["task-arithmetic"].scales_for(3))
    assert [x["method"] for x in known[:2]] == ["base", "original"]
    assert len(known) == 2 + count
    assert len({x["loss"] for x in known[2:]}) == count
    # At scale 0 it is the base, so the smallest scale is the nearest to it.
    off = [abs(x["loss"] - known[0]["loss"]) for x in known[2:]]
    assert off[0] == min(off)
    after = run(built, known)
    assert after[: len(known)] == known
    assert len(after) == len(known) + 3 * len(GRIDS["peft-ties"].scales_for(3))
    assert len(seen) == 4
    assert run(built, after) == after
    assert len(seen) == 1
    assert run(first, after) == after, "trials of methods that are not asked for stay"
    # Files that changed are scored again.
    label, (method, options, back, _) = next(iter(first.items()))
    changed = run({label: (method, options, back, "other")}, known)
    assert [x.get("sha256") for x in changed[2:]] == ["other"] * count


def test_rows_take_what_was_tuned_for_these_adapters_alone(adapters, tmp_path: Path) -> None:
    inputs = building.inputs_of(adapters)
    path = tmp_path / "set.tuned.json"
    assert tuned_options(path, inputs) == {}
    found = {"options": {"density": 0.1, "lam": 1.5}, "loss": 0.4, "at_edge": []}
    path.write_text(json.dumps({"inputs": inputs, "tuned": {"ties": found}}))
    rows = {row.label: row for row in rows_of(Scene(3, 3, tuned_options(path, inputs)))}
    plain = {row.label: row for row in rows_of(Scene(3, 3))}
    assert set(rows) - set(plain) == {"ties_density_0.1_lam_1.5"}
    assert set(plain) - set(rows) == {"ties"}
    note = building.measured(rows["ties_density_0.1_lam_1.5"], adapters, tmp_path / "row")
    assert note["tuned"] == {"density": 0.1, "lam": 1.5}
    assert "tuned" not in building.heading(plain["ties"])
    with pytest.raises(SystemExit, match="adapters"):
        tuned_options(path, building.inputs_of(adapters[:2]))
