"""Probes from the command line: against the original, remembered, and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import load_model
from hydraopt.errors import UsageError
from hydraopt.evaluate import compare, probing
from tests.evaluate.test_classify import adapter as classifier
from tests.evaluate.test_eval_verb import adapter, base, run
from tests.probes.test_probe_files import SAMPLES
from tests.raising import check_refused, raises

__all__ = ["adapter", "base"]


@pytest.fixture
def cache(own_cache: Path) -> Path:
    return own_cache / "probes"


@pytest.fixture
def bundle(adapter, tmp_path):
    path = tmp_path / "x.hydra.safetensors"
    assert run("merge", adapter, "--error", "0.6", "-o", path, "-q").exit_code == 0
    return path


def probed(adapter, bundle, base, *more):
    command = ("eval", bundle, "--originals", adapter, "--base", base, "--probes", SAMPLES)
    return run(*command, *more)


def test_probes_need_no_tasks_and_compare_with_the_original(adapter, bundle, base) -> None:
    said = probed(adapter, bundle, base, "--json")
    assert said.exit_code == 0, said.output
    result = json.loads(said.output)
    head = result["probes"]
    assert head["items"]["bbq"] == 8
    assert head["languages"]["kobbq"] == "ko"
    assert head["base"]["bbq"]["all"]["items"] == 8
    assert {x["probe"] for x in head["sources"]} == set(head["items"])
    (task,) = result["tasks"]
    assert task["results"] == {}
    for probe, by_set in task["probes"].items():
        assert list(by_set) == ["original", bundle.name]
        assert "change" not in by_set["original"]["all"]
        assert by_set[bundle.name]["all"]["change"]["flips"] <= head["items"][probe]
    flips = [x[bundle.name]["all"]["change"]["flips"] for x in task["probes"].values()]
    assert any(flips)


def test_a_table_for_people(adapter, bundle, base) -> None:
    said = probed(adapter, bundle, base)
    assert "spell-en" in said.output
    assert "winobias" in said.output
    assert "50 %" in said.output
    assert re.search(r"spell-en +x +winobias +2 .*\(\d, \d\)", said.output)


def test_a_bundle_without_loss_flips_nothing(adapter, base, tmp_path) -> None:
    path = tmp_path / "exact.hydra.safetensors"
    assert run("merge", adapter, "--lossless", "-o", path, "-q").exit_code == 0
    (task,) = json.loads(probed(adapter, path, base, "--json").output)["tasks"]
    for by_set in task["probes"].values():
        change = by_set[path.name]["all"]["change"]
        assert change["flips"] == 0


def test_what_was_asked_is_not_asked_again(adapter, bundle, base, cache, monkeypatch) -> None:
    first = json.loads(probed(adapter, bundle, base, "--json").output)
    kept = sorted(cache.iterdir())
    assert len(kept) == 3 * 6  # of the base, the original and the bundle
    asked = []
    real = probing.likelihoods

    def counted(*args, **more):
        asked.append(args[1])
        return real(*args, **more)

    monkeypatch.setattr(probing, "likelihoods", counted)
    assert json.loads(probed(adapter, bundle, base, "--json").output) | {"seconds": 0} == (
        first | {"seconds": 0}
    )
    assert asked == []
    # What is damaged is asked again; so is nothing else.
    kept[0].write_text("[[1, 2]")
    again = json.loads(probed(adapter, bundle, base, "--json").output)
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert len(asked) == 1


def test_another_tokenizer_is_not_answered_from_memory(base, cache) -> None:
    from hydraopt.probes.reading import read_probes

    model, tokenizer = load_model(base)
    probes = read_probes([SAMPLES / "winogender"])
    for token in (tokenizer.bos_token, tokenizer.eos_token):
        tokenizer.bos_token = token
        asker = probing.Asker(model, tokenizer, str(base), "float32")
        probing.Prober(asker, probes).base()
    assert len(list(cache.iterdir())) == 2


def test_an_item_that_the_base_has_no_positions_for_is_refused(base, cache, monkeypatch) -> None:
    model, tokenizer = load_model(base)
    monkeypatch.setattr(probing, "positions_of", lambda model: 8)
    asker = probing.Asker(model, tokenizer, str(base), "float32")
    fits, long = (Encoded((1, 5, 6), (7,) * n) for n in (5, 6))
    assert len(asker.ask({}, "none", [[fits, fits]])) == 1
    with raises(UsageError, got="9 tokens"):
        asker.ask({}, "none", [[fits, fits], [fits, long]])


def test_a_first_group_that_shows_nothing_keeps_no_other_from_sharing(
    base, cache, monkeypatch
) -> None:
    model, tokenizer = load_model(base)
    asker = probing.Asker(model, tokenizer, str(base), "float32")
    shared = []
    real = probing.likelihoods
    monkeypatch.setattr(
        probing, "likelihoods", lambda *x, **more: shared.append(more["shared"]) or real(*x, **more)
    )
    nothing, something = ([Encoded((1, 5), (6, 7)), Encoded((1, 5), x)] for x in ((6, 8), (9, 8)))
    asker.ask({}, "none", [nothing])
    assert asker._shared is None
    asker.ask({}, "none", [nothing, something])
    assert asker._shared is True
    assert shared == [True, True]


def test_a_stopped_run_keeps_what_it_had(base, cache, monkeypatch) -> None:
    from hydraopt.probes.reading import read_probes

    model, tokenizer = load_model(base)
    asker = probing.Asker(model, tokenizer, str(base), "float32")
    prober = probing.Prober(asker, read_probes([SAMPLES]))
    count = 0
    real = probing.likelihoods

    def third(*args, **more):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(probing, "likelihoods", third)
    with pytest.raises(KeyboardInterrupt):
        prober.base()
    assert len(list(cache.iterdir())) == 2
    prober.base()
    assert count == 3 + 4


def test_what_is_corrected_together_is_said(adapter, bundle, base) -> None:
    shown = " ".join(probed(adapter, bundle, base).output.split())
    assert "over all changes of one bundle on one adapter, and over all preferences" in shown


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


def test_files_that_are_passed_by_are_named(adapter, bundle, base) -> None:
    assert "README.md (no probe)" in probed(adapter, bundle, base).output
    result = json.loads(probed(adapter, bundle, base, "--json").output)
    assert result["probes"]["passed_by"] == [{"file": "README.md", "why": "no probe"}]


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
    why = "a classifier with a head does not say how likely a text is"
    assert f"no probe was asked: nobody can be asked: {why}" in said.output
    assert f"mood-en: no probes: {why}" in said.output
    result = json.loads(run(*command, "--json").output)
    assert result["probes"]["base"] == {}
    assert result["probes"]["skipped"] == f"nobody can be asked: {why}"
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
