"""The card of a bundle as hubs read it, and what the explorer answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

from hydraopt.cli.main import cli
from hydraopt.report.build import collect
from hydraopt.report.card import bundle_card
from hydraopt.report.live import make_app, make_server
from tests.report.conftest import HOSTILE, NAMES, OWN, Made


def run(*arguments: object) -> tuple[int, str]:
    said = CliRunner().invoke(cli, [str(x) for x in arguments])
    return said.exit_code, said.output


def test_a_hub_reads_the_card(made: Made) -> None:
    card = ModelCard(bundle_card(collect(made.bundle, [made.result])))
    data = card.data.to_dict()
    assert data["base_model"] == "org/tiny"
    assert data["library_name"] == "hydraopt"
    assert data["tags"] == ["hydraopt", "lora"]
    assert data["language"] == ["de", "en", "fr"]
    assert data["metrics"] == ["exact_match"]
    results = card.data.eval_results
    assert results is not None
    values = {x.task_name: x.metric_value for x in results}
    assert values == {name: 90 - 2 * i for i, name in enumerate(NAMES)}


def test_the_card_says_what_was_measured_and_names_are_text(made: Made) -> None:
    text = bundle_card(collect(made.bundle, [made.result]))
    _, _, body = text.partition("\n---\n")
    prose = re.sub(r"`[^`]*`|```.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)[<>]", prose)
    assert "5 of 12 scored rows" in text
    plain = bundle_card(collect(made.bundle))
    assert "metrics:" not in plain
    assert "model-index" not in plain
    assert "of 64 prompts" in plain


def test_the_command_writes_a_card_and_no_other_file(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    code, said = run("report", "--card", made.bundle, "--results", made.result, "-o", file)
    assert code == 0, said
    assert run("report", "--card", made.bundle, "-o", file)[0] == 0
    assert run("report", "--card", made.bundle)[1] == file.read_text()
    assert run("report", "--card", made.bundle, "-q") == (0, "")
    file.write_text("# mine\n")
    assert run("report", "--card", made.bundle, "-o", file)[0] == 2
    assert file.read_text() == "# mine\n"
    assert run("report", "--card", made.bundle, "adapters")[0] == 2
    assert (
        json.loads(run("report", "--card", made.bundle, "--json")[1])["schema"] == "hydraopt.card/1"
    )


class Client:
    """A client of an application in this process."""

    def __init__(self, app: Any) -> None:
        from starlette.testclient import TestClient

        self._client = TestClient(app, base_url="http://127.0.0.1")

    def __call__(self, path: str, **asked: Any) -> Any:
        return self._client.get(path, params=asked)


@pytest.fixture(scope="module")
def client(made: Made) -> Client:
    return Client(make_app(collect(made.bundle, [made.result])))


def test_the_explorer_answers_page_tasks_task_and_examples(client: Client) -> None:
    page = client("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "connect-src 'self'" in page.text
    assert "alert(" not in page.text
    said = client("/api/page").json()
    assert (said["live"], said["count"], said["name"]) == (True, 6, OWN)
    tasks = client("/api/tasks", sort="harm", language="de").json()
    assert tasks["total"] == 3
    assert tasks["tasks"][0]["name"] == HOSTILE
    task = client("/api/task", name=HOSTILE).json()
    assert task["task"]["name"] == HOSTILE
    assert len(task["layers"]["modules"]) == 6
    assert all(task["layers"]["bytes"])
    assert [x["changed"] for x in task["examples"]] == [True, False]
    rows = client("/api/examples", **{"from": 4, "count": 3}).json()
    assert (rows["total"], [x["changed"] for x in rows["examples"]]) == (12, [True, False, False])


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("/api/task", {"name": "nobody"}, 404),
        ("/api/task", {}, 404),
        ("/api/tasks", {"from": "-1"}, 400),
        ("/api/tasks", {"from": "1e3"}, 400),
        ("/api/tasks", {"sort": "__class__"}, 400),
        ("/api/examples", {"count": "9" * 50}, 400),
        ("/etc/passwd", {}, 404),
    ],
)
def test_odd_questions_are_refused(client: Client, path: str, asked: Any, status: int) -> None:
    assert client(path, **asked).status_code == status


def test_it_answers_for_this_machine_alone(made: Made) -> None:
    from starlette.testclient import TestClient

    app = make_server(collect(made.bundle), "127.0.0.1").config.app
    assert TestClient(app, base_url="http://127.0.0.1").get("/api/page").status_code == 200
    assert TestClient(app, base_url="http://evil.example").get("/api/page").status_code == 421
