"""A task that was scored stays while its factors do, whatever becomes of others in a bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.harness.bundlescores import score
from hydraopt import merge
from hydraopt.adapters import read_adapters
from hydraopt.compress.recode import recode
from hydraopt.evaluate import compare
from hydraopt.evaluate.compare import EvaluationRequest
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import Look
from tests.marks import slow

PATH = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapters(make_adapter, tmp_path: Path):
    rng = np.random.default_rng(0)
    folders = []
    for name in ("spell-en", "more"):
        pair = 0.1 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))
        folders.append(make_adapter(tmp_path / name, {PATH: pair}))
        (tmp_path / name / "score.json").write_text(json.dumps({"task": "spell/en"}))
    return read_adapters(folders)


def bundle(adapters, path: Path, changed: str = "") -> tuple[Path, dict[str, str]]:
    """A merge, of which the parts of one task are others."""

    def other(name, modules):
        if name != changed:
            return {}
        scaled = {
            p: Factors(0.8 * x.record.factors.B, x.record.factors.A) for p, x in modules().items()
        }
        return {path: recode(scaled[path], x).record for path, x in modules().items()}

    path.parent.mkdir(parents=True, exist_ok=True)
    most = merge(adapters, path, lossless=True).size - 1
    merge(adapters, path, size=most, look=Look(refit=other))
    return path, {"method": changed}


@pytest.fixture
def scored(adapters, tasks, trained, tmp_path, monkeypatch):
    """Scores bundles: the tasks that were measured, and the result."""
    monkeypatch.setattr(compare, "load_model", lambda base: trained)
    measured: list[str] = []
    task_result = compare.task_result

    def counted(name, *more):
        measured.append(name)
        return task_result(name, *more)

    monkeypatch.setattr(compare, "task_result", counted)

    def ask(changed: str = "", only: tuple[str, ...] = ()):
        measured.clear()
        path = tmp_path / f"made {changed}" / "x.hydra.safetensors"
        made = [bundle(adapters, path, changed)]
        request = EvaluationRequest("tiny", tasks, rows=3, write_base=False, only=only)
        score(tmp_path / "out.json", adapters, made, request, {"plan": "x"})
        return list(measured), json.loads((tmp_path / "out.json").read_text())

    return ask


def test_a_task_of_the_same_factors_is_not_scored_again(scored) -> None:
    measured, first = scored(only=("spell-en",))
    assert measured == ["spell-en"]
    measured, second = scored(changed="more")
    assert measured == ["more"]
    one, two = (result["bundles"]["x.hydra.safetensors"]["sha256"] for result in (first, second))
    assert one != two
    assert second["methods"] == {"x.hydra.safetensors": {"method": "more"}}
    assert [task["adapter"] for task in second["tasks"]] == ["more", "spell-en"]
    assert second["tasks"][1] == first["tasks"][0]
    with pytest.raises(SystemExit, match=r"out\.json.*\bmore\b"):
        scored(changed="spell-en")


def test_a_result_that_does_not_know_its_factors_is_of_its_bundles_alone(
    scored, tmp_path: Path, monkeypatch
) -> None:
    _, first = scored(only=("spell-en",))
    del first["tasks"][0]["factors"]
    (tmp_path / "out.json").write_text(json.dumps(first))
    with pytest.raises(SystemExit, match="spell-en"):
        scored(changed="more")
    measured, second = scored()
    assert measured == ["more"]
    assert all(task["factors"] for task in second["tasks"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limits": {"rows": 4}}, "other rows or products"),
        slow({"limits": {"rows": 3, "tokens": 9}}, "rows of other lengths"),
        slow({"products": "bfloat16"}, "other rows or products"),
        slow({"methods": {}}, "other methods"),
        ({"adapters": {}}, "other adapters"),
    ],
)
def test_what_was_measured_otherwise_is_refused(scored, tmp_path: Path, change, said) -> None:
    _, first = scored(only=("spell-en",))
    (tmp_path / "out.json").write_text(json.dumps({**first, **change}))
    with pytest.raises(SystemExit, match=said):
        scored()


def test_what_was_scored_on_other_files_is_refused(scored, tasks) -> None:
    scored(only=("spell-en",))
    file = tasks / "spell" / "en" / "test.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with pytest.raises(SystemExit, match="spell-en"):
        scored()


@pytest.fixture
def taken(adapters, tasks, trained, tmp_path, monkeypatch):
    """Scores two bundles of one folder, the second with what the first result can give."""
    monkeypatch.setattr(compare, "load_model", lambda base: trained)
    folder = tmp_path / "beside"
    request = EvaluationRequest("tiny", tasks, rows=3, write_base=False)
    first, second = (
        [bundle(adapters, folder / f"{name}.hydra.safetensors", changed)]
        for name, changed in (("a", ""), ("b", "more"))
    )
    score(tmp_path / "a.json", adapters, first, request, {})
    return adapters, second, request, tmp_path


def test_a_task_of_another_result_is_taken_where_factors_are_the_same(taken, capsys) -> None:
    adapters, made, request, folder = taken
    capsys.readouterr()
    score(folder / "b.json", adapters, made, request, {}, [folder / "a.json"])
    assert "spell-en: taken from a.json" in capsys.readouterr().out
    one, two = (json.loads((folder / f"{x}.json").read_text())["tasks"] for x in "ab")
    assert [task["adapter"] for task in two] == ["more", "spell-en"]
    a, b = (f"{x}.hydra.safetensors" for x in "ab")
    assert two[1]["results"].keys() == {"base", "original", b}
    assert two[1]["results"][b] == one[1]["results"][a]
    assert two[0]["results"][b] != one[0]["results"][a]
    alone = folder / "alone.json"
    score(alone, adapters, made, request, {})
    assert json.loads(alone.read_text())["tasks"] == two  # as if it had been scored


def test_several_results_give_a_task_together(taken, adapters, capsys) -> None:
    _, two, request, folder = taken
    one = [bundle(adapters, folder / "beside" / "c.hydra.safetensors", "spell-en")]
    score(folder / "c.json", adapters, one, request, {})
    for results in (["a.json"], ["a.json", "c.json"]):
        (folder / "d.json").unlink(missing_ok=True)
        capsys.readouterr()
        score(folder / "d.json", adapters, [*two, *one], request, {}, [folder / x for x in results])
        said = capsys.readouterr().out
        assert ("spell-en: taken from a.json, c.json" in said) == (len(results) == 2)
        # c.json has what it holds of the other task, and nobody what "b" does.
        assert "more: taken" not in said
    alone = folder / "alone.json"
    score(alone, adapters, [*two, *one], request, {})
    assert (
        json.loads((folder / "d.json").read_text())["tasks"]
        == json.loads(alone.read_text())["tasks"]
    )


def without_factors(result: Path) -> None:
    """As results were that did not say which factors they are of."""
    told = json.loads(result.read_text())
    for task in told["tasks"]:
        del task["factors"]
    result.write_text(json.dumps(told))


@pytest.mark.parametrize("told", [True, slow(False)])
def test_a_result_that_says_its_factors_needs_no_bundle(taken, capsys, told: bool) -> None:
    adapters, made, request, folder = taken
    (folder / "beside" / "a.hydra.safetensors").unlink()
    if not told:
        without_factors(folder / "a.json")
    capsys.readouterr()
    score(folder / "b.json", adapters, made, request, {}, [folder / "a.json"])
    assert ("spell-en: taken from a.json" in capsys.readouterr().out) == told


@pytest.mark.parametrize("what", [slow("another"), "task"])
def test_nothing_is_taken_of_other_bundles_or_rows(taken, capsys, what: str) -> None:
    adapters, made, request, folder = taken
    first = folder / "beside" / "a.hydra.safetensors"
    if what == "another":  # than was scored
        without_factors(folder / "a.json")
        result = json.loads((folder / "a.json").read_text())
        result["bundles"][first.name]["sha256"] = "0" * 64
        (folder / "a.json").write_text(json.dumps(result))
    else:
        with (request.tasks / "spell" / "en" / "test.jsonl").open("a") as file:
            file.write('{"input": "11", "output": "eleven"}\n')
    capsys.readouterr()
    score(folder / "b.json", adapters, made, request, {}, [folder / "a.json"])
    assert "taken" not in capsys.readouterr().out


def test_what_was_asked_otherwise_gives_nothing(taken) -> None:
    adapters, made, request, folder = taken
    other = dataclasses.replace(request, rows=4)
    with pytest.raises(SystemExit, match=r"a\.json"):
        score(folder / "b.json", adapters, made, other, {}, [folder / "a.json"])


def test_what_merges_said_is_noted_where_nothing_is_left_to_score(taken) -> None:
    adapters, made, request, folder = taken
    out = folder / "b.json"
    score(out, adapters, made, request, {})
    score(out, adapters, [(made[0][0], {"method": "said now"})], request, {})
    (said,) = json.loads(out.read_text())["methods"].values()
    assert said == {"method": "said now"}
