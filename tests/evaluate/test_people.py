"""Probes from the command line: against the original, and shown."""

from __future__ import annotations

import json

import pytest

from hydraopt.errors import UsageError
from hydraopt.evaluate import compare
from tests.evaluate.test_classify import adapter as classifier
from tests.evaluate.test_eval_verb import adapter, run
from tests.probes.test_probe_files import SAMPLES
from tests.raising import check_refused

__all__ = ["adapter"]


@pytest.fixture
def base(trained, tmp_path):
    """The small model, which computes positions, with a context for the samples."""
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 512}))
    return tmp_path / "base"


@pytest.fixture
def bundle(adapter, tmp_path):
    path = tmp_path / "x.hydra.safetensors"
    assert run("merge", adapter, "--error", "0.9", "-o", path, "-q").exit_code == 0
    return path


def probed(adapter, bundle, base, *more):
    command = ("eval", bundle, "--originals", adapter, "--base", base, "--probes", SAMPLES)
    return run(*command, *more)


def test_probes_need_no_tasks_and_compare_with_the_original(adapter, bundle, base) -> None:
    said = probed(adapter, bundle, base, "--json")
    assert said.exit_code == 0, said.output
    result = json.loads(said.output)
    head = result["probes"]
    assert head["items"]["questions"] == head["base"]["questions"]["all"]["items"] == 8
    assert set(head["sha256"]) == set(head["items"])
    (task,) = result["tasks"]
    assert task["results"] == {}
    for probe, by_set in task["probes"].items():
        assert list(by_set) == ["original", bundle.name]
        assert "change" not in by_set["original"]["all"]
        assert by_set[bundle.name]["all"]["change"]["flips"] <= head["items"][probe]
    flips = [x[bundle.name]["all"]["change"]["flips"] for x in task["probes"].values()]
    assert any(flips)


def test_a_bundle_without_loss_flips_nothing(adapter, base, tmp_path) -> None:
    path = tmp_path / "exact.hydra.safetensors"
    assert run("merge", adapter, "--lossless", "-o", path, "-q").exit_code == 0
    (task,) = json.loads(probed(adapter, path, base, "--json").output)["tasks"]
    for by_set in task["probes"].values():
        change = by_set[path.name]["all"]["change"]
        assert change["flips"] == 0


def test_an_item_beyond_the_context_is_refused(adapter, bundle, base, monkeypatch) -> None:
    monkeypatch.setattr(compare, "positions_of", lambda model: 8)
    check_refused(probed(adapter, bundle, base), UsageError, expected="at most 8")


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        ((), {"names": "--tasks"}),
        (("--probes", "nowhere"), {"file": "nowhere"}),
    ],
)
def test_wrong_wishes_are_refused(adapter, more, facts) -> None:
    said = run("eval", adapter, "--base", "nowhere", *more)
    assert said.exit_code == 2
    check_refused(said, **facts)


def test_classifiers_alone_are_not_asked_and_no_language_model_is_loaded(
    base, tmp_path, monkeypatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a language model was loaded")

    monkeypatch.setattr(compare, "load_model", refused)
    folder = classifier(tmp_path / "mood-en")
    command = ("eval", folder, "--base", base, "--probes", SAMPLES)
    said = run(*command)
    assert said.exit_code == 0, said.output
    why = "a classifier with a head has no likelihoods of texts"
    assert f"mood-en: no probes: {why}" in said.output
    result = json.loads(run(*command, "--json").output)
    assert result["probes"]["base"] == {}
    assert result["probes"]["skipped"] == why
    assert result["tasks"][0]["probes"] == {"skipped": why}


def test_a_classifier_beside_others_does_not_keep_them_from_being_asked(
    adapter, base, tmp_path
) -> None:
    folder = classifier(tmp_path / "mood-en")
    said = run("eval", adapter, folder, "--base", base, "--probes", SAMPLES, "-q", "--json")
    assert said.exit_code == 0, said.output
    result = json.loads(said.output)
    assert "skipped" not in result["probes"]
    assert result["probes"]["base"].keys() == result["probes"]["items"].keys()
    by = {x["adapter"]: x["probes"] for x in result["tasks"]}
    assert by["mood-en"].keys() == {"skipped"}
    assert by["spell-en"].keys() == result["probes"]["items"].keys()
