"""The attack on the server: what it tells apart, and that it finds what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hostile import server
from benchmarks.hostile.server import Service, problems_of
from benchmarks.speed.serve_load import Offline, Prompt


@pytest.fixture
def service(tmp_path: Path) -> Service:
    old = {("de", 0): Offline("eins", 1.0), ("en", 0): Offline("one", 1.0)}
    new = {("de", 0): Offline("zwei", 1.0), ("en", 0): Offline("two", 1.0)}
    made = Service("http://127.0.0.1:9/v1", 0, tmp_path / "b", [Prompt("x", 2)], [old, new])
    made.switches += [(10.0, 12.0, 1), (20.0, 22.0, 0)]
    return made


@pytest.mark.parametrize(
    ("since", "until", "bundles"),
    [
        (1, 9, {0}),
        (1, 11, {0, 1}),
        (11, 11.5, {0, 1}),
        (13, 19, {1}),
        (13, 23, {0, 1}),
        (23, 24, {0}),
    ],
)
def test_which_bundle_was_in_service(service, since, until, bundles) -> None:
    assert service.in_service(since, until) == bundles


def test_answers_are_told_apart(service, monkeypatch) -> None:
    monkeypatch.setattr(server.time, "monotonic", lambda: 19.0)
    cases: list[tuple[str, float, int, Any]] = [
        ("right", 13, 200, "zwei"),
        ("wrong_task", 13, 200, "two"),
        ("unexplained", 13, 200, "eins"),  # of the bundle that is no longer in service
        ("right", 11, 200, "eins"),
        ("failed", 13, 503, ""),
        ("path_told", 13, 500, f"no file {service.file}"),
    ]
    for kind, since, status, text in cases:
        before = service.kinds[kind]
        reply = {"choices": [{"text": text}]} if status == 200 else {"error": text}
        service.count(("de", 0), since, status, reply)
        assert service.kinds[kind] == before + 1, kind
    assert service.statuses == {"200": 4, "503": 1, "500": 1}


def test_what_is_wrong_is_found() -> None:
    for row, said in (
        ({"what": "a", "failed": 2}, "a: 2 failed"),
        ({"what": "b", "closed": 1, "connections": 2}, "b: 1 of 2 closed"),
        ({"what": "c", "exit_seconds": 26.0, "limit_seconds": 25.0}, r"c: 26.0 s"),
        ({"what": "d", "well_after": False}, "d: not well afterwards"),
        ({"what": "e", "tracebacks": 1}, "e: not well afterwards"),
    ):
        assert problems_of([row]) == [said]


@pytest.mark.parametrize("given", [(1, 0), (1, 1), (1, 3), (0, 2)])
def test_a_base_needs_two_bundles(given, monkeypatch, capsys) -> None:
    """Nothing else is attacked in its place."""

    def attacked(*_: object) -> None:
        raise AssertionError("the tiny model was written")

    monkeypatch.setattr(server, "write_tiny", attacked)
    bases, bundles = given
    arguments = ["--base", "model"] * bases + ["--bundle", "one"] * bundles
    with pytest.raises(SystemExit) as ended:
        server.main(arguments)
    assert ended.value.code == 2
    assert f"exactly two --bundle belong together; got {bundles}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_attack(tmp_path: Path) -> None:
    out = tmp_path / "server.json"
    few = ["--seconds", "20", "--clients", "4", "--connections", "40", "--threads", "1"]
    assert server.main([*few, "--json", str(out)]) == 0
    rows = {x["what"]: x for x in json.loads(out.read_text())["rows"]}
    assert rows["answers while the bundle is exchanged"]["right"] > 20
    assert rows["reloads"]["replies"]["exchanged: 200"] > 0
    assert rows["half bodies"]["statuses"] == {"408": 20}
