"""Rivals that get prompts: factors moved so that what rounding leaves keeps more answers."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import methods
from benchmarks.rivals.base import pack
from benchmarks.rivals.coded_svd import coded_svd
from benchmarks.rivals.group import rounding
from benchmarks.rivals.loraquant import loraquant
from benchmarks.rivals.numbers import grouped
from benchmarks.rivals.prompted import rows
from benchmarks.rivals.stored import stored
from benchmarks.rivals.svd import cut_by_energy
from benchmarks.rivals.svd_group import rounded_svd
from benchmarks.rivals.taught import taught
from hydraopt.harm import lesson
from hydraopt.harm.drift import drift_of, held_out, reference_of
from hydraopt.merging.look import HarmSettings
from tests.basemodel.cases import factors_of, texts_of
from tests.marks import slow

SHORT = HarmSettings(steps=24, stops=(8, 16, 24), rate=0.02)


@pytest.fixture
def school(trained, monkeypatch):
    """(originals of one task, its answers, what teaches, harm of factors on held-out answers)."""
    monkeypatch.setattr(lesson, "has_bfloat16", lambda: False)  # on no machine
    model, tokenizer = trained
    original = {
        path: tuple(np.asarray(x, np.float32) for x in pair)
        for path, pair in factors_of(0, 0.02).items()
    }
    answers = texts_of(tokenizer, 24)
    judges = reference_of(model, [answers[i] for i in held_out(answers)[1]], original)

    def teach(_task, start, rounded):
        return taught(model, answers, original, start, rounded, SHORT)

    return original, teach, lambda factors: drift_of(model, judges, factors).summary().harm


@pytest.mark.parametrize(
    ("plain", "prompted"),
    [
        (rounding(2), lambda teach: stored("x", "", grouped(2), teach=teach)),
        slow(
            rounded_svd(0.5),
            lambda teach: stored("x", "", grouped(4), cut_by_energy(0.5), teach),
        ),
        slow(loraquant(0.5), lambda teach: loraquant(0.5, teach)),
        (coded_svd(0.7), lambda teach: coded_svd(0.7, teach=teach)),
    ],
    ids=["group", "svd+group", "loraquant", "coded svd"],
)
def test_less_harm_in_as_many_bytes(school, tmp_path: Path, plain, prompted) -> None:
    original, teach, harm = school
    row = prompted(teach)
    before = pack(plain, {"t": original}, tmp_path / "a")
    after = pack(row, {"t": original}, tmp_path / "b")
    assert abs(after.bytes - before.bytes) < 200  # layouts are compressed
    old, new = harm(before.factors["t"]), harm(after.factors["t"])
    assert new.kl < 0.9 * old.kl
    assert new.likely <= old.likely
    assert row.of_package
    assert not plain.of_package


def test_what_no_step_makes_better_stays(school) -> None:
    original, teach, _ = school
    assert teach("t", original, lambda modules: modules) is original  # nothing is lost


def test_further_answers_teach_as_well(school, trained, tmp_path: Path) -> None:
    model, tokenizer = trained
    original, _, harm = school
    few, others = texts_of(tokenizer, 24)[:8], texts_of(tokenizer, 24)[8:]
    kl = []
    for more in ([], others):

        def teach(_task, start, rounded, more=more):
            return taught(model, few, original, start, rounded, SHORT, more)

        row = stored("x", "", grouped(2), teach=teach)
        kl.append(harm(pack(row, {"t": original}, tmp_path / f"{len(more)}").factors["t"]).kl)
    assert kl[1] < kl[0]


def test_rows_have_labels_of_their_own(school) -> None:
    found = rows(school[1])
    labels = [row.label for row in found]
    assert len(set(labels)) == len(labels)
    assert all("prompts" in row.method for row in found)


def test_another_process_sees_the_same_prompts(tmp_path: Path, monkeypatch) -> None:
    # They are read three times, forty each.
    monkeypatch.setattr(methods, "original_adapters", functools.cache(methods.original_adapters))
    asked = ["gemma3-5x8", "--plan", "prompted", "--tasks", str(tmp_path), "--prompts", "24"]
    asked += ["--products", "float32", "--learn", "7", "--of", "*-en", "date_format-de"]
    asked += ["--out", str(tmp_path / "x.json")]
    run = methods.Run.of(methods._arguments(asked))
    again = methods.Run.of(methods._arguments([*run.arguments, "--one", "x", "y"]))
    assert (again.place, again.args.prompts, again.args.products) == (run.place, 24, "float32")
    assert again.args.learn == 7
    names = [x.name for x in run.adapters]
    assert [x.name for x in again.adapters] == names
    assert len(names) == 6
    assert sum(name.endswith("-en") for name in names) == 5
    other = methods.Run.of(methods._arguments([*asked, "--prompts-from", "validation"]))
    assert other.place != run.place
    with pytest.raises(SystemExit):
        methods._arguments(asked[:3])
    with pytest.raises(SystemExit):
        methods._arguments(asked[:-2])  # a few adapters are no result of the set
