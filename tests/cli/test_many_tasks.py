"""Commands on many tasks show the worst and a summary; JSON has all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import hydraopt
from hydraopt.merging import merge
from tests.cli.conftest import MakeAdapter, Run
from tests.marks import slow
from tests.raising import check_refused

MANY = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    """A folder of adapters whose errors differ, in a pattern that no name gives away."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(MANY):
        rng = np.random.default_rng(i)
        pair = rng.standard_normal((12, 4)), rng.standard_normal((4, 16))
        made = make_adapter(folder / f"task{i:02}", {"layers.0.self_attn.q_proj": pair})
        config = json.loads((made / "adapter_config.json").read_text())
        # A setting of which the reader notes that it does nothing.
        (made / "adapter_config.json").write_text(json.dumps({**config, "unheard_of": True}))
    return folder


@pytest.fixture(scope="module")
def bundle(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "many.hydra.safetensors"
    merge(many / "*", path, size="30%", workers=1)
    return path


def shown(output: str) -> set[str]:
    """Tasks that have a row: a name and numbers behind it."""
    return set(re.findall(r"^\s*(task\d\d)\s+\d", output, re.M))


def verbs(many: Path, bundle: Path, out: Path) -> dict[str, list[object]]:
    return {
        "merge": ["merge", f"{many}/*", "--error", "0.2", "-o", out],
        "shrink": ["shrink", bundle, "--size", "20%", "-o", out],
        "inspect": ["inspect", bundle, "--list"],
        "verify": ["verify", bundle, f"{many}/*"],
    }


@pytest.mark.parametrize("verb", ["merge", slow("shrink"), "inspect", "verify"])
def test_the_worst_are_shown_and_json_has_all(
    run: Run, many: Path, bundle: Path, tmp_path: Path, verb: str
) -> None:
    words = verbs(many, bundle, tmp_path / "out")[verb]
    few, document = (run(*words, *more) for more in ((), ("--json",)))
    assert few.exit_code == document.exit_code == 0, few.output
    rows = json.loads(document.stdout)["tasks"]
    assert len(rows) == MANY
    worst = sorted(rows, key=lambda row: -row["error"])[:10]
    assert shown(few.output) == {row["name"] for row in worst}
    assert str(MANY) in few.output


@pytest.mark.slow
def test_refresh_lists_few_of_what_grows(run: Run, many: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "large.hydra.safetensors"
    assert run("merge", f"{many}/*", "--error", "0.05", "-o", bundle).exit_code == 0
    words = ["refresh", bundle, f"{many}/*", "-o", tmp_path / "out", "--error", "0.3"]
    few, every = run(*words), run(*words, "--json", "--force")
    assert few.exit_code == every.exit_code == 0, few.output
    assert len(json.loads(every.stdout)["grown"]) > 20
    assert len(shown(few.output)) == 10


@pytest.mark.parametrize("verb", ["merge", slow("shrink"), "verify"])
def test_quiet_prints_nothing_but_errors(
    run: Run, many: Path, bundle: Path, tmp_path: Path, verb: str
) -> None:
    words = verbs(many, bundle, tmp_path / "out")[verb]
    done = run(*words, "-q")
    assert (done.exit_code, done.output) == (0, "")
    wrong = run(words[0], tmp_path / "nowhere", *words[2:], "-q")
    assert wrong.exit_code != 0
    assert wrong.output


def test_one_note_for_all_that_share_it(run: Run, many: Path, tmp_path: Path) -> None:
    done = run("merge", f"{many}/*", "--error", "0.2", "-o", tmp_path / "out", "--json")
    notes = json.loads(done.stdout)["notes"]
    (where,) = [note["where"] for note in notes if note["code"] == "unknown_settings"]
    assert where.count(", ") == MANY - 1


def test_a_bundle_a_task_and_an_adapter_are_shown_in_a_line(many: Path, bundle: Path) -> None:
    opened = hydraopt.open_bundle(bundle)
    adapter = hydraopt.read_adapter(many / "task00")
    for thing, name in ((opened, bundle.name), (opened["task07"], "task07"), (adapter, "task00")):
        assert name in repr(thing)
        assert len(repr(thing)) < 300
        assert "\n" not in repr(thing)


@pytest.mark.parametrize("what", ["weight", "export", "remove"])
def test_an_unknown_name_gets_the_closest(
    run: Run, many: Path, bundle: Path, tmp_path: Path, what: str
) -> None:
    words: dict[str, list[object]] = {
        "weight": ["merge", f"{many}/*", "--error", "0.3", "--weight", "tsak07=2"],
        "export": ["export", bundle, "tsak07"],
        "remove": ["remove", bundle, "tsak07"],
    }
    more = [] if what == "remove" else ["-o", tmp_path / "out"]
    done = run(*words[what], *more)
    assert done.exit_code == 2
    check_refused(done, names="task07")
    check_refused(done)
    assert len(re.findall(r"task\d\d", done.output)) <= 4


def test_quiet_prints_problems(run: Run, many: Path, bundle: Path, tmp_path: Path) -> None:
    swapped = [f"task00={many}/task01", f"task01={many}/task00"]
    done = run("verify", bundle, *swapped, "-q")
    assert done.exit_code == 1
    assert "task02" in done.output
    assert "task29" not in done.output
    problems = json.loads(run("verify", bundle, *swapped, "--json").stdout)["problems"]
    assert any("task29" in problem for problem in problems)
    damaged = tmp_path / "damaged.hydra.safetensors"
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    done = run("verify", damaged, "-q")
    assert done.exit_code == 1
    assert done.output
