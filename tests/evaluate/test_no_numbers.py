"""An adapter whose logits are NaN or infinity has no result, and costs the others none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hydraopt.evaluate import EvaluationRequest, evaluate, read_compared
from hydraopt.evaluate.results import Skipped
from hydraopt.files import to_json
from tests.conftest import write_adapter
from tests.evaluate.test_classify import BOTH, adapter, mood
from tests.evaluate.test_eval_verb import base, run
from tests.evaluate.test_run import PATH, factors
from tests.probes.test_probe_files import SAMPLES

__all__ = ["base", "mood"]

HUGE = np.float32(1e38)


@pytest.fixture
def both(tasks, tmp_path) -> list[str]:
    """An adapter that is fine, and one of finite numbers whose products are none."""
    (tasks / "spell" / "fr").mkdir()
    rows = (tasks / "spell" / "en" / "test.jsonl").read_bytes()
    (tasks / "spell" / "fr" / "test.jsonl").write_bytes(rows)
    (b, a) = factors(0.1)[PATH]
    made = {"spell-fr": (np.full_like(b, HUGE), np.full_like(a, HUGE)), "spell-en": (b, a)}
    return [str(write_adapter(tmp_path / name, {PATH: pair})) for name, pair in made.items()]


def test_the_others_are_written(both, base, tasks, tmp_path) -> None:
    out = tmp_path / "r.json"
    said = run("eval", *both, "--base", base, "--tasks", tasks, "-o", out, "--answers", 2)
    assert said.exit_code == 0, said.output
    result = json.loads(out.read_text())
    by = {x["adapter"]: x for x in result["tasks"]}
    why = "no scores of original; got logits that are not finite"
    assert by["spell-fr"]["skipped"].startswith(why)
    assert by["spell-fr"]["results"] == {}
    assert by["spell-en"]["results"]["original"]["loss"] > 0
    (note,) = result["notes"]
    assert (note["code"], note["where"]) == ("not_scored", "spell-fr")
    assert why in note["text"]
    assert "spell-fr" in said.output


def test_the_source_of_no_numbers_is_named(both, base, tasks) -> None:
    b, a = factors(0.1)[PATH]
    others = {"x": {"spell-en": {PATH: (b * HUGE, a * HUGE)}}, "y": {"spell-en": {PATH: (b, a)}}}
    compared = replace(read_compared([both[1]]), other_methods=others)
    (entry,) = evaluate(compared, EvaluationRequest(str(base), tasks)).tasks
    assert "no scores of x;" in str(entry.skipped)


def test_heads_whose_logits_are_none(base, mood, tmp_path) -> None:
    folder = adapter(tmp_path / "mood-en")
    head = {"base_model.model.score.weight": np.full((3, 32), np.finfo(np.float32).max)}
    pairs = {x: (np.ones((32, 4)), np.ones((4, 32))) for x in BOTH}
    more = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    write_adapter(folder, pairs, extras=head, **more)
    request = EvaluationRequest(str(base), mood)
    (entry,) = evaluate(read_compared([str(folder)]), request).tasks
    why = "no scores of original; got logits that are not finite"
    assert str(entry.skipped).startswith(why)
    json.dumps(to_json(entry), allow_nan=False)


def test_probes_of_the_others_are_measured(both, base) -> None:
    request = EvaluationRequest(str(base), None, probes=[str(SAMPLES / "pronouns.jsonl")])
    result = evaluate(read_compared(both), request)
    json.dumps(to_json(result), allow_nan=False)
    by = {x.adapter: x for x in result.tasks}
    one = by["spell-fr"].probes
    assert isinstance(one, Skipped)
    assert "no scores of original;" in one.skipped
    assert {*by["spell-en"].probes} == {"pronouns"}
