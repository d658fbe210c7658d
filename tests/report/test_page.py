"""The page as data and as a file: what adds up, what is refused, and that names stay text."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from hydraopt.bundle import open_bundle
from hydraopt.cli.main import cli
from hydraopt.errors import UsageError
from hydraopt.inspect import inspect_bundle
from hydraopt.merging import merge
from hydraopt.report import build
from hydraopt.report.builder import collect
from hydraopt.report.card import bundle_card
from hydraopt.report.data import NONE, Page, parts_of
from hydraopt.report.evidence import marked, read_evidence
from hydraopt.report.page import data_text, render
from tests.conftest import write_adapter
from tests.raising import raises
from tests.report.conftest import HOSTILE, NAMES, OWN, Made, result_of

LIMIT = 3_000_000
"""Bytes that a page may have."""


@pytest.fixture(scope="module")
def page(made: Made) -> Page:
    return build(made.bundle, sorted(made.adapters.iterdir()), [made.result])


@pytest.fixture(scope="module")
def plain(made: Made) -> Page:
    """The page of the bundle alone, without originals and results."""
    return build(made.bundle)


@given(st.text(max_size=60), st.text(max_size=60))
def test_pieces_are_the_two_answers(one: str, two: str) -> None:
    pieces = marked(one, two)
    assert "".join(text for kind, text in pieces if kind != "added") == one
    assert "".join(text for kind, text in pieces if kind != "removed") == two
    assert all(text for _, text in pieces)


def test_equal_answers_have_no_marks() -> None:
    assert marked("2011年5月1日", "2011年5月1日") == (("same", "2011年5月1日"),)
    assert ("removed", "5") in marked("2011年5月1日", "2011年6月1日")


def test_names_tell_group_and_language() -> None:
    names = ["dates-de", "dates-en", "chat-v2", "a_b-zh-Hans", "my-bot"]
    parts = parts_of(names, {"chat-v2": ("chat", "sv")})
    assert parts["dates-de"] == ("dates", "de")
    assert parts["a_b-zh-Hans"] == ("a_b", "zh-Hans")
    assert parts["chat-v2"] == ("chat", "sv")
    assert parts["my-bot"] == (NONE, NONE)


def test_tasks_come_by_harm_and_are_what_inspect_says(page: Page, made: Made) -> None:
    said = {row.name: row for row in inspect_bundle(made.bundle).tasks}
    assert [x.name for x in page.tasks] == list(reversed(NAMES))
    assert page.judged_by == "results"
    for task in page.tasks:
        row, layers = said[task.name], page.layers[task.name]
        assert (task.error, task.own_bytes) == (row.error, row.own_bytes)
        details = {x.path: x for x in row.details}
        for i, module in enumerate(layers.modules):
            one = details[page.modules[module]]
            assert (layers.errors[i], layers.bytes[i]) == (one.error, one.bytes)
            assert layers.forms[i] == one.form
    assert sum(size for _, size in page.parts) == page.size == made.bundle.stat().st_size
    assert sum(count for _, count in page.forms) == 36


@pytest.mark.slow
def test_without_results_the_manifest_judges_and_without_harm_the_error(
    made: Made, plain: Page
) -> None:
    known = collect(made.bundle)
    assert {x.measured for x in known.tasks} > {"0 of 64 prompts"}
    assert [x.harm for x in known.tasks] == sorted([4 * i / 64 for i in range(6)], reverse=True)
    assert "% of the originals' answers change" in plain.summary[1]


def test_sizes_hold_the_bundle_and_the_scored(page: Page) -> None:
    (chosen,) = (row for row in page.sizes if row.kind == "chosen")
    assert chosen.size == page.size
    assert chosen.values["changed"] == (pytest.approx(15 / 72), 5 / 12, HOSTILE)
    assert chosen.values["drop"] == (pytest.approx(5.0), 10.0, HOSTILE)
    (other,) = (row for row in page.sizes if row.kind == "measured")
    assert other.values["changed"][0] == pytest.approx(0.5)


def test_likeness_is_a_matrix_of_all_tasks(page: Page) -> None:
    assert page.alike is not None
    assert sorted(page.alike.tasks) == sorted(NAMES)
    rows = page.alike.cosines
    assert all(rows[i][i] == 100 for i in range(6))
    assert all(rows[i][j] == rows[j][i] for i in range(6) for j in range(6))
    assert len(page.alike.pairs) == 12


def test_the_map_has_a_row_for_a_task_and_a_column_for_a_module(page: Page) -> None:
    assert page.map.tasks == tuple(x.name for x in page.tasks)
    assert len(page.map.columns) == 6
    assert all(x is not None for row in page.map.errors for x in row)
    own = {x.name: x.own_bytes for x in page.tasks}
    for name, row in zip(page.map.tasks, page.map.bytes, strict=True):
        assert 0 < sum(x or 0 for x in row) <= own[name]


def test_groups_are_means_of_their_tasks(page: Page) -> None:
    (german,) = (row for row in page.languages if row.name == "German (de)")
    assert (german.tasks, german.worst) == (3, HOSTILE)
    assert german.changed == pytest.approx((0 + 3 + 5) / 36)
    assert german.difference == pytest.approx(-2 * (0 + 3 + 5) / 3)
    assert german.low is not None
    assert german.high is not None
    assert german.low < german.difference < german.high


def test_the_file_is_one_small_text_without_addresses(page: Page) -> None:
    text = render(page)
    assert len(text.encode()) < LIMIT
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:,|#)""", text.split("<script", 1)[0])
    assert not re.search(r"@import|url\(", text.split("</style>", 1)[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'none'" in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 9
    for script in scripts:
        assert not re.search(r"\(\?<[=!]", script)  # what older browsers read nothing for
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]


def test_no_name_leaves_its_text(page: Page) -> None:
    data = data_text(page)
    assert not set("<>&") & set(data)
    assert json.loads(data)["tasks"][0]["name"] == HOSTILE
    text = render(page)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "<b>note" not in text
    assert text.count("<script") == 10


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("no json", {"file": "x.json"}),
        ("[1]", {"file": "x.json", "expected": "hydraopt.eval/1"}),
        ('{"schema": "hydraopt.eval/2"}', {"file": "x.json", "expected": "hydraopt.eval/1"}),
        ('{"schema": "hydraopt.eval/1", "tasks": [{"adapter": "else"}]}', {"file": "x.json"}),
        ('{"schema": "hydraopt.eval/1", "tasks": 7}', {"file": "x.json"}),
        ('{"schema": "hydraopt.eval/1", "tasks": [{"adapter": ["a"]}]}', {"file": "x.json"}),
        ('{"schema": "hydraopt.eval/1", "base": {"name": "\\udcff"}}', {"file": "x.json"}),
        ('{"schema": "hydraopt.eval/1", "\\ud800": 1}', {"file": "x.json"}),
    ],
)
def test_what_is_no_result_is_refused(
    made: Made, tmp_path: Path, text: str, facts: dict[str, object]
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with raises(UsageError, **facts):
        collect(made.bundle, [file])


def test_a_result_of_another_file_is_another_size_alone(made: Made, tmp_path: Path) -> None:
    result = result_of(made.bundle)
    result["bundles"][OWN]["sha256"] = "2" * 64
    file = tmp_path / "x.json"
    file.write_text(json.dumps(result))
    known = collect(made.bundle, [file])
    assert not known.evidence.judged
    assert len(known.evidence.other_sizes) == 2
    assert [(x.code, x.where) for x in known.evidence.notes] == [("other_files", "x.json")]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=6), x, max_size=3),
    max_leaves=8,
)
_PLACES = ("rows", "results", "answers", "metric", "task", "language")


@given(st.sampled_from(_PLACES), _JSON)
def test_nothing_in_a_result_is_believed(made: Made, place: str, value: object) -> None:
    result = result_of(made.bundle)
    result["tasks"][5][place] = value
    result["limits"] = value
    file = made.result.with_name("odd.json")
    file.write_text(json.dumps(result))
    known = collect(made.bundle, [file])
    judged = [x.judged for x in known.tasks if x.judged is not None]
    assert all(x.changed is None or 0 <= x.changed <= x.rows for x in judged)


def _pages(bundle: Path, file: Path) -> list[bytes]:
    """A page and a card of a bundle with a result."""
    return [
        render(build(bundle, (), [file])).encode(),
        bundle_card(collect(bundle, [file])).encode(),
    ]


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 1 << 60, 1e308, math.inf, math.nan, True, "7", ["a"], None],
    ids=lambda x: str(x)[:6],
)
def test_a_number_that_is_none_is_left_out(made: Made, tmp_path: Path, value: object) -> None:
    result = result_of(made.bundle)
    result["bundles"]["less.hydra.safetensors"]["bytes"] = value
    for task in result["tasks"][4:]:  # moods-en with what was asked of people, and another
        own = task["results"][OWN]
        own["scores"]["exact match"] = own["kl_answer"] = value
        own["difference"]["exact match"] = dict.fromkeys(("difference", "low", "deviation"), value)
        task["rows"] = value
        task["answers"][0]["row"] = value
    people = result["tasks"][4]
    people["probes"]["winobias"][OWN]["all"]["preference"]["pct"] = value
    result["tasks"].append({"adapter": value})
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(result))
    known = collect(made.bundle, [file])
    number = 1e308 if value == 1e308 else float(1 << 60) if value == 1 << 60 else None
    for name in NAMES[4:]:
        judged = known.evidence.judged[name]
        assert (judged.bundle, judged.deviation, judged.kl) == (number, number, number)
        assert (judged.rows, judged.changed) == (0, None)
    assert not known.evidence.other_sizes
    assert all(_pages(made.bundle, file))


def test_a_name_that_is_no_text_is_shown_as_one(made: Made, tmp_path: Path) -> None:
    file, bundle = (tmp_path / os.fsdecode(name) for name in (b"\xff.json", b"\xff.safetensors"))
    try:
        shutil.copy(made.bundle, bundle)
    except OSError:
        pytest.skip("this system has no such names")
    shutil.copy(made.result, file)
    known = collect(bundle, [file])
    assert known.name == "?.safetensors"
    assert known.evidence.origin[0][0] == "result ?.json"
    for text in _pages(bundle, file):
        assert b"?.safetensors" in text


def run(*arguments: object) -> tuple[int, str]:
    said = CliRunner().invoke(cli, [str(x) for x in arguments])
    return said.exit_code, said.output


@pytest.fixture
def small(tmp_path: Path) -> Made:
    """Two tasks of one module, and a result of them."""
    rng = np.random.default_rng(0)
    for name in NAMES[:2]:
        pair = rng.standard_normal((16, 2)), rng.standard_normal((2, 12))
        write_adapter(tmp_path / "adapters" / name, {"h.0.q": pair})
    merge(tmp_path / "adapters" / "*", tmp_path / OWN, max_error=0.3, workers=1)
    result = result_of(tmp_path / OWN)
    result["tasks"] = result["tasks"][:2]
    file = tmp_path / "eval.json"
    file.write_text(json.dumps(result), encoding="utf-8")
    return Made(tmp_path / OWN, file, tmp_path / "adapters")


def test_the_command_writes_a_page_and_no_other_file(small: Made, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    originals = sorted(small.adapters.iterdir())
    command = ("report", small.bundle, "--originals", *originals, "--results", small.result)
    code, said = run(*command, "-o", page, "--json", "-q")
    assert code == 0, said
    told = json.loads(said)
    assert (told["tasks"], told["judged_by"]) == (2, "results")
    assert told["bytes"] == page.stat().st_size
    plain = run("report", small.bundle, *originals, small.result, "-o", page, "--json", "-q")
    assert json.loads(plain[1])["summary"] == told["summary"]  # the options may be left out
    assert run("report", small.bundle, "-o", page, "-q")[0] == 0  # one of ours is replaced
    other = tmp_path / "other.html"
    other.write_text("<title>mine</title>")
    assert run("report", small.bundle, "-o", other)[0] == 2
    assert other.read_text() == "<title>mine</title>"
    assert run("report", small.bundle, "-o", tmp_path / "no" / "x.html")[0] == 2
    assert run("report", small.bundle, "-o", small.bundle, "--force")[0] == 2
    assert open_bundle(small.bundle)


def test_originals_of_another_bundle_are_refused(made: Made, tmp_path: Path) -> None:
    odd = write_adapter(tmp_path / "odd", {"h.0.q": (np.ones((4, 2)), np.ones((2, 4)))})
    with raises(UsageError, got="odd"):
        build(made.bundle, [odd])


def test_people_are_shown_as_far_as_a_result_tells_of_them(page: Page, made: Made) -> None:
    whole, group = page.people
    assert (whole.task, whole.probe, whole.group) == ("moods-en", "winobias", "")
    assert (whole.before, whole.now, whole.low, whole.high) == (0.6, 0.6, 0.5, 0.7)
    assert (whole.flips, whole.towards, whole.away, whole.p) == (9, 8, 1, 1.0)
    assert (group.group, group.p) == (HOSTILE, 0.04)
    other = json.loads(made.result.read_text(encoding="utf-8"))
    other["bundles"][OWN]["sha256"] = "2" * 64
    path = made.result.with_name("other.json")
    path.write_text(json.dumps(other), encoding="utf-8")
    assert not read_evidence(open_bundle(made.bundle), [path]).people


def test_a_page_without_room_for_all_groups_keeps_those_that_changed(
    made: Made, tmp_path: Path
) -> None:
    result = json.loads(made.result.read_text(encoding="utf-8"))
    (task,) = (task for task in result["tasks"] if "probes" in task)
    by_set = task["probes"]["winobias"]
    plain = by_set[OWN]["all"]
    by_set[OWN] = {f"job: {i:04}": plain for i in range(2100)} | by_set[OWN]
    by_set["original"] |= dict.fromkeys(by_set[OWN], plain)
    path = tmp_path / "many.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    page = build(made.bundle, (), [path])
    assert len(page.people) == 2000
    assert [row.group for row in page.people[:2]] == ["", HOSTILE]
    assert (page.notes[0].code, page.notes[0].where) == ("page_full", "probes")
