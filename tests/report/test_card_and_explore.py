"""The card of a bundle as hubs read it, and the server of a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner
from huggingface_hub import ModelCard

from hydraopt.cli.main import cli
from hydraopt.report import build, make_server
from hydraopt.report.builder import collect
from hydraopt.report.card import bundle_card
from tests.report.conftest import NAMES, Made


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


def test_it_answers_for_this_machine_alone(made: Made) -> None:
    from starlette.testclient import TestClient

    app = make_server(build(made.bundle), "127.0.0.1").config.app
    page = TestClient(app, base_url="http://127.0.0.1").get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>alert" not in page.text
    assert TestClient(app, base_url="http://evil.example").get("/").status_code == 421
