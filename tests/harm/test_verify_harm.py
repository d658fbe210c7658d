"""What a bundle says of its harm, measured again with the base model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given, strategies as st

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.bundle import Added, Bundle, Harm, HarmReport, TaskAdapter
from hydraopt.cli.options import base_files, warn_of_base
from hydraopt.errors import BundleFormatError, NumericalError, UsageError
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model import AnswerJudge, verification as module, verify_harm
from hydraopt.model.verification import most_likely
from tests.bundle.bundles import remade
from tests.harm.cases import NAMES, call, laid_out, run, spelling
from tests.raising import check_refused

PROMPTS = spelling(12)


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a merge takes, with prompts of fr alone, and b: the adapters merged. It stays so."""
    folder = laid_out(tmp_path_factory.mktemp("harm"), trained, 0.03, ["fr"])
    merge(folder / "adapters" / "*", folder / "b", size="35%", workers=1)
    return folder


def true_harm(merged: Path) -> Harm:
    """Of fr, by the judge itself."""
    adapters = read_adapters(merged / "adapters" / "*")
    judge = AnswerJudge(str(merged / "base"), adapters, {"fr": PROMPTS})
    return judge.measure("fr", open_bundle(merged / "b")["fr"].factors).harm


def stating(merged: Path, target: Path, harm: Harm | None) -> Path:
    return remade(open_bundle(merged / "b"), target, fr={"harm": harm})


def verify(merged: Path, bundle: Path, *more: object, asked: bool = True) -> Result:
    return call(merged, *more, verb="verify", bundle=bundle, asked=asked)


def report_of(merged: Path, bundle: Path, prompts, settings=DEFAULT_HARM) -> HarmReport:
    adapters = read_adapters(merged / "adapters" / "*")
    return verify_harm(bundle, adapters, str(merged / "base"), prompts, settings=settings)


def let_recipe_say(monkeypatch: pytest.MonkeyPatch, **said: object) -> None:
    monkeypatch.setattr(Bundle, "recipe", property(lambda self: {**self.core.recipe, **said}))


def test_what_is_true_is_well(merged: Path, tmp_path: Path) -> None:
    harm = true_harm(merged)
    assert 0 < harm.likely < 1
    assert harm.answers == len(PROMPTS)
    result = verify(merged, stating(merged, tmp_path / "b", harm), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (task,) = report["harm"]
    kept = harm.snapped()
    assert task["name"] == "fr"
    assert task["stated"] == dataclasses.asdict(kept)
    assert task["measured"] == {
        "changed": harm.changed,
        "answers": harm.answers,
        "likely": harm.likely,
        "kl": harm.kl,
    }
    assert task["most"] == most_likely(kept, harm.answers)
    assert (task["ok"], report["ok"], report["problems"]) == (True, True, [])


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("unit", ["share of answers", "nats an answer"])
def test_tasks_above_the_limit_of_the_merge_are_told(
    merged: Path, tmp_path: Path, monkeypatch, unit: str, factor: float
) -> None:
    harm = true_harm(merged)
    value = factor * (harm.likely if unit.startswith("share") else harm.kl)
    bundle = stating(merged, tmp_path / "b", harm)
    let_recipe_say(monkeypatch, limit="harm", value=value, unit=unit)
    result = verify(merged, bundle, "--json")
    assert result.exit_code == 0, result.output
    (note,) = [x for x in json.loads(result.stdout)["notes"] if x["code"] == "harm_limit"]
    assert note["where"] == ("fr" if factor < 1 else "")


def test_a_task_that_is_worse_than_stated_is_a_problem(merged: Path, tmp_path: Path) -> None:
    stated = Harm(0, 10**6, 0.0, 0.0, True)
    bundle = stating(merged, tmp_path / "b", stated)
    report = report_of(merged, bundle, {"fr": spelling(40)})
    (task,) = report.tasks
    assert task.measured.likely > most_likely(stated, 40)
    assert not task.ok
    (problem,) = report.problems
    assert "'fr'" in problem


def test_the_command_fails_for_a_task_that_is_worse_than_stated_alone(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEVIATIONS", 0.0)
    better, worse = Harm(1000, 1000, 1.0, 9.0, False), Harm(0, 100, 0.0, 0.0, True)
    for code, stated in enumerate((better, worse)):
        assert verify(merged, stating(merged, tmp_path / str(code), stated)).exit_code == code


@pytest.mark.parametrize(("refitted", "answers"), [(0, 12), (1, 5)])
def test_what_a_refit_learned_from_is_not_measured(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refitted: int, answers: int
) -> None:
    let_recipe_say(monkeypatch, refit=refitted)
    report = report_of(merged, merged / "b", {"fr": PROMPTS}, HarmSettings(prompts_if_refit=5))
    assert [task.measured.answers for task in report.tasks] == [answers]


def test_a_task_that_was_added_has_learned_from_none(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = HarmSettings(prompts_if_refit=5)
    let_recipe_say(monkeypatch, refit=1)
    added, few = {"added": Added("2026-11-30", "0" * 16)}, {"harm": Harm(0, 4, 0.0, 0.0, True)}
    bundle = remade(open_bundle(merged / "b"), tmp_path / "b", fr=added | few, en=few)
    report = report_of(merged, bundle, dict.fromkeys(NAMES, PROMPTS), settings)
    assert [task.measured.answers for task in report.tasks] == [5, len(PROMPTS)]
    assert report.learned == ("en",)


def test_prompts_are_read_before_anything_is_decoded(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydraopt.bundle.opening.verify_bundle", lambda *_: 1 // 0)
    result = verify(merged, merged / "b", "--prompts", tmp_path / "nowhere", asked=False)
    check_refused(result, UsageError, file="nowhere")


def test_another_base_by_its_name_is_told(
    merged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its shapes may fit, and harm is then measured on answers that nobody gives."""
    mine, none = read_adapters(merged / "adapters" / "*")
    mine = dataclasses.replace(mine, base_model="some/One-Instruct")
    none = dataclasses.replace(none, base_model=None)
    for base, told in (("other/one", True), ("x/one-instruct", False), (str(merged), False)):
        warn_of_base(base, [mine, none])
        said = " ".join(capsys.readouterr().err.split())
        assert ("but en name another base model (some/One-Instruct)" in said) == told


@pytest.mark.parametrize(("refitted", "more", "told"), [(0, 1, False), (1, 0, False), (1, 1, True)])
def test_harm_that_is_of_fewer_answers_may_leave_out_what_was_learned_from(
    merged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refitted: int,
    more: int,
    told: bool,
) -> None:
    bundle = stating(merged, tmp_path / "b", true_harm(merged))
    let_recipe_say(monkeypatch, refit=refitted)
    report = report_of(merged, bundle, {"fr": spelling(len(PROMPTS) + more)})
    assert report.learned == (("fr",) if told else ())


def test_a_base_of_a_name_is_fetched_before_its_tensors_are_asked_for(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def files_of(base: str) -> Path | None:
        return merged / "base" if fetched else None

    monkeypatch.setattr("hydraopt.model.files_of", files_of)
    monkeypatch.setattr("hydraopt.model.load_model", fetched.append)
    assert base_files("OWNER/NAME") == merged / "base"
    assert base_files("OWNER/NAME") == merged / "base"
    assert fetched == ["OWNER/NAME"]


def test_nothing_stated_nothing_wrong(merged: Path) -> None:
    result = verify(merged, merged / "b", "--json")
    assert result.exit_code == 0, result.output
    (task,) = json.loads(result.stdout)["harm"]
    assert (task["stated"], task["most"], task["ok"]) == (None, None, True)
    assert task["measured"]["answers"] == len(PROMPTS)
    notes = [(note["code"], note["where"]) for note in json.loads(result.stdout)["notes"]]
    assert notes == [("harm_not_measured", "en"), ("harm_not_stated", "fr")]


def test_without_prompts_nothing_changes(merged: Path) -> None:
    result = verify(merged, merged / "b", "--json", asked=False)
    assert result.exit_code == 0, result.output
    assert "harm" not in json.loads(result.stdout)


def test_prompts_need_the_base_and_the_originals(merged: Path) -> None:
    base, adapter = ["--base", merged / "base"], [merged / "adapters" / "fr"]
    for missing, more in {"ADAPTERS": base, "--base": adapter, "ADAPTERS and --base": []}.items():
        result = run("verify", merged / "b", "--prompts", merged / "prompts", *more)
        check_refused(result, names=missing)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ((TaskAdapter, "factors"), BundleFormatError("no stream")),
        ((AnswerJudge, "measure"), NumericalError("logits are not finite")),
    ],
)
def test_a_task_that_cannot_be_measured_is_a_problem(
    merged: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str], error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(*where, broken)
    report = report_of(merged, merged / "b", {"fr": PROMPTS})
    assert report.tasks == ()
    assert report.problems == (f"task 'fr': {error}",)


COUNTS = st.integers(1, 10**6)


@given(COUNTS, COUNTS, st.floats(0, 1), st.floats(0, 1))
def test_what_is_explained(n: int, m: int, one: float, other: float) -> None:
    """A share, at least what is stated; more where less is known, or where more is stated."""
    low, high = sorted((one, other))

    def most(answers: int, likely: float, now: int) -> float:
        return most_likely(Harm(0, answers, likely, 0.0, True), now)

    assert low - 1e-12 <= most(n, low, m) <= 1
    assert most(n, low, m) <= most(n, high, m) + 1e-12
    assert most(n + 1, low, m) <= most(n, low, m) + 1e-12
    assert most(n, low, m + 1) <= most(n, low, m) + 1e-12


def test_the_interval_by_hand() -> None:
    # Wilson's: its ends p0 solve (p0 - p)^2 = z^2 p0 (1 - p0) / n.
    stated, p, n = Harm(5, 100, 0.05, 0.1, True), 0.05, 50.0
    end = most_likely(stated, 100)
    assert (end - p) ** 2 == pytest.approx(9 * end * (1 - end) / n)
    assert end > p
    assert most_likely(dataclasses.replace(stated, likely=1.0), 100) == 1.0
