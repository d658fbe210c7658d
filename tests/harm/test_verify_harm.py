"""What a bundle says of its harm, measured again with the base model."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.history import Added
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.verify import TaskHarm
from hydraopt.cli.main import cli
from hydraopt.cli.prompting import base_files, warn_of_base
from hydraopt.errors import BundleFormatError, UsageError
from hydraopt.harm import verify as module
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.verify import most_likely, verify_harm
from hydraopt.merging.look import HarmSettings
from tests.bundle.bundles import remade
from tests.conftest import write_adapter
from tests.raising import check_refused

PROMPTS = [f"Spell.\n{i}\n=>" for i in range(12)]
PATHS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qo"]
NAMES = ("en", "fr")


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, adapters/en and adapters/fr, prompts/fr.txt, and b: the adapters merged."""
    folder = tmp_path_factory.mktemp("harm")
    for part in trained:
        part.save_pretrained(folder / "base")
    for seed, name in enumerate(NAMES):
        rng = np.random.default_rng(seed)
        modules = {
            p: (0.03 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))) for p in PATHS
        }
        write_adapter(folder / "adapters" / name, modules)
    (folder / "prompts").mkdir()
    lines = "".join(json.dumps(text) + "\n" for text in PROMPTS)
    (folder / "prompts" / "fr.jsonl").write_text(lines)
    merge(folder / "adapters" / "*", folder / "b", size="35%", workers=1)
    return folder


def true_harm(place: Path) -> Harm:
    """Of fr, by the judge itself."""
    adapters = read_adapters(place / "adapters" / "*")
    judge = AnswerJudge(str(place / "base"), adapters, {"fr": PROMPTS})
    return judge.measure("fr", open_bundle(place / "b")["fr"].factors).harm


def stating(place: Path, target: Path, harm: Harm | None) -> Path:
    return remade(open_bundle(place / "b"), target, fr={"harm": harm})


def verify(place: Path, bundle: Path, *more: object) -> Result:
    given = [bundle, *sorted((place / "adapters").iterdir()), "--base", place / "base"]
    asked = ["--prompts", place / "prompts", *more]
    return CliRunner().invoke(cli, ["verify", *(str(x) for x in (*given, *asked))])


def test_what_is_true_is_well(place: Path, tmp_path: Path) -> None:
    harm = true_harm(place)
    assert 0 < harm.likely < 1
    assert harm.answers == len(PROMPTS)
    result = verify(place, stating(place, tmp_path / "b", harm), "--json")
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


def test_both_are_shown_side_by_side(place: Path, tmp_path: Path) -> None:
    harm = true_harm(place)
    stated = Harm(3, 48, 0.0471, 0.0123, True)
    result = verify(place, stating(place, tmp_path / "b", stated))
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    now = f"{harm.changed} of 12 {100 * harm.likely:.2f} % {harm.kl:.3g} nats"
    most = f"{100 * most_likely(stated, 12):.2f} %"
    assert f"fr 3 of 48 4.71 % 0.0123 nats yes {now} {most}" in lines, result.stdout


def test_a_task_that_is_worse_than_stated_is_a_problem(place: Path, tmp_path: Path) -> None:
    stated = Harm(0, 10**6, 0.0, 0.0, True)
    bundle = stating(place, tmp_path / "b", stated)
    adapters = read_adapters(place / "adapters" / "*")
    many = [f"Spell.\n{i}\n=>" for i in range(40)]
    report = verify_harm(bundle, adapters, str(place / "base"), {"fr": many})
    (task,) = report.tasks
    assert task.measured.likely > most_likely(stated, 40)
    assert not task.ok
    (problem,) = report.problems
    assert problem.startswith(f"task 'fr': {100 * task.measured.likely:.2f} % of 40 answers")
    assert "the manifest says 0.00 % of 1000000" in problem


def test_the_command_fails_for_a_worse_task(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEVIATIONS", 0.0)
    bundle = stating(place, tmp_path / "b", Harm(0, 100, 0.0, 0.0, True))
    result = verify(place, bundle)
    assert result.exit_code == 1
    assert "problem: task 'fr'" in result.stdout
    assert "1 problem" in result.stdout


def test_where_no_harm_is_stated_nothing_is_held_against_it(place: Path, tmp_path: Path) -> None:
    for harm in (None, Harm(3, 48, 0.0471, 0.0123, True)):
        result = verify(place, stating(place, tmp_path / str(harm is None), harm))
        assert ("states no harm for fr" in " ".join(result.stdout.split())) == (harm is None)


def test_a_task_that_is_better_than_stated_is_none(place: Path, tmp_path: Path) -> None:
    bundle = stating(place, tmp_path / "b", Harm(1000, 1000, 1.0, 9.0, False))
    assert verify(place, bundle).exit_code == 0


@pytest.mark.parametrize(("refitted", "answers"), [(0, 12), (1, 5)])
def test_what_a_refit_learned_from_is_not_measured(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refitted: int, answers: int
) -> None:
    settings = HarmSettings(prompts_if_refit=5)
    monkeypatch.setattr(
        Bundle, "recipe", property(lambda self: {**self.core.recipe, "refit": refitted})
    )
    adapters = read_adapters(place / "adapters" / "*")
    report = verify_harm(
        place / "b", adapters, str(place / "base"), {"fr": PROMPTS}, settings=settings
    )
    assert [task.measured.answers for task in report.tasks] == [answers]


def test_a_task_that_was_added_has_learned_from_none(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = HarmSettings(prompts_if_refit=5, held_out=5, least_held_out=1)
    monkeypatch.setattr(Bundle, "recipe", property(lambda self: {**self.core.recipe, "refit": 1}))
    added, few = Added("2026-11-30", "0" * 16), Harm(0, 4, 0.0, 0.0, True)
    bundle = remade(
        open_bundle(place / "b"), tmp_path / "b", fr={"added": added, "harm": few}, en={"harm": few}
    )
    adapters = read_adapters(place / "adapters" / "*")
    asked = dict.fromkeys(NAMES, PROMPTS)
    report = verify_harm(bundle, adapters, str(place / "base"), asked, settings=settings)
    assert [task.measured.answers for task in report.tasks] == [5, len(PROMPTS)]
    assert report.learned == ("en",)


def test_prompts_are_read_before_anything_is_decoded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydraopt.collection.opening.verify_bundle", lambda *_: 1 // 0)
    given = [place / "b", *sorted((place / "adapters").iterdir()), "--base", place / "base"]
    asked = ["verify", *map(str, given), "--prompts", str(tmp_path / "nowhere")]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    check_refused(result, UsageError, file="nowhere")


def test_what_was_read_is_shown_where_harm_cannot_be_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args, **_more):
        raise UsageError("prompts that are not read")

    monkeypatch.setattr(module, "verify_harm", refuse)
    result = verify(place, place / "b")
    assert result.exit_code == 2
    check_refused(result, UsageError)


def test_another_base_by_its_name_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its shapes may fit, and harm is then measured on answers that nobody gives."""
    mine, none = read_adapters(place / "adapters" / "*")
    mine = dataclasses.replace(mine, base_model="some/One-Instruct")
    none = dataclasses.replace(none, base_model=None)
    for base, told in (("other/one", True), ("x/one-instruct", False), (str(place), False)):
        warn_of_base(base, [mine, none])
        said = " ".join(capsys.readouterr().err.split())
        assert ("but en name another base model (some/One-Instruct)" in said) == told


@pytest.mark.parametrize(("refitted", "more", "told"), [(0, 1, False), (1, 0, False), (1, 1, True)])
def test_harm_that_is_of_fewer_answers_may_leave_out_what_was_learned_from(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refitted: int,
    more: int,
    told: bool,
) -> None:
    bundle = stating(place, tmp_path / "b", true_harm(place))
    monkeypatch.setattr(
        Bundle, "recipe", property(lambda self: {**self.core.recipe, "refit": refitted})
    )
    adapters, base = read_adapters(place / "adapters" / "*"), str(place / "base")
    prompts = [f"Spell.\n{i}\n=>" for i in range(len(PROMPTS) + more)]
    report = verify_harm(bundle, adapters, base, {"fr": prompts})
    assert report.learned == (("fr",) if told else ())


@pytest.mark.parametrize("tokens", [1, 100])
def test_answers_that_go_on_are_told_of(place: Path, monkeypatch, tokens: int) -> None:
    said = {"answer_tokens": tokens}
    monkeypatch.setattr(Bundle, "recipe", property(lambda self: {**self.core.recipe, **said}))
    result = verify(place, place / "b")
    assert ("fr (12)" in result.stdout) == (tokens == 1), result.stdout


def test_a_base_of_a_name_is_fetched_before_its_tensors_are_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def files_of(base: str) -> Path | None:
        return place / "base" if fetched else None

    monkeypatch.setattr("hydraopt.basemodel.loading.files_of", files_of)
    monkeypatch.setattr("hydraopt.basemodel.model.load_model", fetched.append)
    assert base_files("OWNER/NAME") == place / "base"
    assert base_files("OWNER/NAME") == place / "base"
    assert fetched == ["OWNER/NAME"]


def test_nothing_stated_nothing_wrong(place: Path) -> None:
    result = verify(place, place / "b", "--json")
    assert result.exit_code == 0, result.output
    (task,) = json.loads(result.stdout)["harm"]
    assert (task["stated"], task["most"], task["ok"]) == (None, None, True)
    assert task["measured"]["answers"] == len(PROMPTS)
    notes = [(note["code"], note["where"]) for note in json.loads(result.stdout)["notes"]]
    assert notes == [("harm_not_measured", "en"), ("harm_not_stated", "fr")]


def test_without_prompts_nothing_changes(place: Path) -> None:
    given = [place / "b", *sorted((place / "adapters").iterdir()), "--base", place / "base"]
    result = CliRunner().invoke(cli, ["verify", *map(str, given), "--json"])
    assert result.exit_code == 0, result.output
    assert "harm" not in json.loads(result.stdout)


def test_prompts_need_the_base_and_the_originals(place: Path) -> None:
    folder, base = str(place / "prompts"), str(place / "base")
    adapter = str(place / "adapters" / "fr")
    given = {"ADAPTERS": ["--base", base], "--base": [adapter], "ADAPTERS and --base": []}
    for missing, more in given.items():
        result = CliRunner().invoke(cli, ["verify", str(place / "b"), "--prompts", folder, *more])
        assert result.exit_code == 2
        check_refused(result, names=missing)


def test_wrong_prompts_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("one\n")
    adapters = [str(x) for x in sorted((place / "adapters").iterdir())]
    asked = ["--base", str(place / "base"), "--prompts", str(tmp_path)]
    result = CliRunner().invoke(cli, ["verify", str(place / "b"), *adapters, *asked])
    assert result.exit_code == 2
    check_refused(result, UsageError, got="de", expected="en, fr")


def test_prompts_of_one_task_may_be_a_file(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.txt"
    file.write_text("one\ntwo\nthree\n")
    adapters = [str(x) for x in sorted((place / "adapters").iterdir())]
    given = ["verify", str(place / "b"), *adapters, "--base", str(place / "base"), "--json"]
    result = CliRunner().invoke(cli, [*given, "--prompts", f"fr={file}"])
    (task,) = json.loads(result.stdout)["harm"]
    assert (task["name"], task["measured"]["answers"]) == ("fr", 3)
    twice = CliRunner().invoke(cli, [*given, *2 * ["--prompts", str(tmp_path)]])
    assert twice.exit_code == 2


def test_a_damaged_task_is_a_problem(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydraopt.bundle.task import TaskAdapter

    def broken(task: TaskAdapter) -> None:
        raise BundleFormatError("no stream")

    adapters = read_adapters(place / "adapters" / "*")
    monkeypatch.setattr(TaskAdapter, "factors", broken)
    report = verify_harm(place / "b", adapters, str(place / "base"), {"fr": PROMPTS})
    assert report.tasks == ()
    assert report.problems == ("task 'fr': no stream",)


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


def test_what_is_stated_is_held_against_the_share_not_the_count() -> None:
    stated = Harm(0, 10**6, 0.0, 0.0, True)
    measured = Harm(0, 10**6, 0.2, 0.0, True)
    assert not TaskHarm("x", stated, measured, most_likely(stated, 10**6)).ok
    assert TaskHarm("x", None, measured, None).ok
    assert math.isclose(most_likely(stated, 10**6), 9 / (5e5 + 9))
