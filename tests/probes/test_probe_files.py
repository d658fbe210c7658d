"""Files of probes become items; those that cannot be asked are refused with their line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hydraopt.errors import UsageError
from hydraopt.evaluate.probes import ProbeItem, ProbeSide, encoded, read_probes
from hydraopt.model import encode_row
from tests.raising import raises

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "probes"
SIDES = [{"text": "a", "role": "stereotype"}, {"text": "b", "role": "against"}]
PROMPTED = [{**side, "prompt": "Say:"} for side in SIDES]
ANSWERED = {"instruction": "Which?", "input": "a or b", "sides": SIDES}


def items(probe: str) -> tuple[ProbeItem, ...]:
    return read_probes([SAMPLES / f"{probe}.jsonl"])[probe].items


def written(folder: Path, *rows: Any, name: str = "x.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_has_a_probe_for_each_file() -> None:
    probes = read_probes([SAMPLES])
    assert set(probes) == {"people", "pronouns", "questions"}
    for name, probe in probes.items():
        data = (SAMPLES / f"{name}.jsonl").read_bytes()
        assert probe.sha256 == hashlib.sha256(data).hexdigest()
        assert len(probe.items) == len(data.splitlines())
        for item in probe.items:
            assert {"stereotype", "against"} <= {side.role for side in item.sides}


def test_an_item_is_sentences_or_completions_or_answers() -> None:
    (sentence, *_), (completion, *_), (answer, *_) = map(items, ("pronouns", "people", "questions"))
    assert {side.person for side in sentence.sides} == {"female", "male"}
    assert sentence.sizes == (1, 1)
    assert all(side.prompt for side in completion.sides)
    assert answer.instruction
    assert answer.condition in ("ambiguous", "disambiguated")
    assert answer.sizes == tuple(len(side.text) for side in answer.sides)


@pytest.mark.parametrize(
    "row",
    [
        {"sides": SIDES},
        {"sides": SIDES, "groups": {"about": "age"}},
        {"sides": PROMPTED},
        ANSWERED,
        {**ANSWERED, "right": 1, "condition": "ambiguous"},
        {"sides": [{"text": "a", "role": "neither"}, {"text": "b", "role": "unknown"}]},
    ],
)
def test_what_an_item_may_be(row, tmp_path) -> None:
    (item,) = read_probes([written(tmp_path, row)])["x"].items
    assert [side.text for side in item.sides] == ["a", "b"]


@pytest.mark.parametrize(
    "row",
    [
        [],
        {},
        {"sides": SIDES[:1]},
        {"sides": [*SIDES, SIDES[0]]},
        {"sides": [{"text": " ", "role": "unknown"}, *SIDES]},
        {"sides": [{"text": "c", "role": "good"}, *SIDES]},
        {"sides": [{"text": "c"}, *SIDES]},
        {"sides": [PROMPTED[0], SIDES[1]]},
        {"sides": [{**side, "prompt": " "} for side in SIDES]},
        {"sides": SIDES, "other": 1},
        {"sides": SIDES, "groups": {"about": 1}},
        {"sides": SIDES, "input": "a"},
        {**ANSWERED, "sides": PROMPTED},
        {**ANSWERED, "right": 1},
        {**ANSWERED, "condition": "ambiguous"},
        {**ANSWERED, "right": 2, "condition": "ambiguous"},
        {**ANSWERED, "right": 0, "condition": "vague"},
        {**ANSWERED, "input": "long" * 1001},
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_line(row, tmp_path) -> None:
    path = written(tmp_path, {"sides": SIDES}, row)
    with raises(UsageError, what="line 2", file="x.jsonl"):
        read_probes([path])


@pytest.mark.parametrize("text", ["{", '"\\ud800"', "[" * 100_000])
def test_a_line_that_is_no_json_is_refused(text, tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"sides": SIDES}) + "\n\n" + text)
    with raises(UsageError, what="line 3", file="x.jsonl"):
        read_probes([path])


def test_a_string_of_json_may_hold_another_end_of_lines(tmp_path) -> None:
    row = {**ANSWERED, "input": "a\u2028b"}
    (item,) = read_probes([written(tmp_path, row)])["x"].items
    assert item.input == "a\u2028b"


def test_a_probe_that_is_not_there_is_refused(tmp_path) -> None:
    with raises(UsageError, file="nowhere"):
        read_probes([tmp_path / "nowhere"])
    with raises(UsageError, file=tmp_path.name):
        read_probes([tmp_path])
    (tmp_path / "x.jsonl").touch()
    with raises(UsageError, file="x.jsonl"):
        read_probes([tmp_path])


def test_two_probes_of_one_name_are_refused(tmp_path) -> None:
    path = written(tmp_path, {"sides": SIDES})
    with raises(UsageError, got="x"):
        read_probes([path, tmp_path])


def _row(number: int, group: str) -> dict[str, Any]:
    sides = [{**side, "text": f"{side['text']} {number}"} for side in SIDES]
    return {"sides": sides, "groups": {"about": group}}


def test_a_sample_keeps_small_groups_and_begins_with_a_smaller_one(tmp_path) -> None:
    rows = [_row(i, "rare" if i % 50 == 0 else "often") for i in range(200)]
    path = written(tmp_path, *rows)
    (tmp_path / "turned").mkdir()
    turned = written(tmp_path / "turned", *reversed(rows))
    eight = read_probes([path], 8)["x"].items
    assert [x.groups["about"] for x in eight].count("rare") == 4
    assert read_probes([turned], 8)["x"].items == eight
    assert read_probes([path], 20)["x"].items[:8] == eight
    assert len(read_probes([path])["x"].items) == 200


# --- what stands before a probe's texts, with and without a token --------------------------------


BOS, EOS = 1, 2
SENTENCES, APART = (
    ProbeItem((ProbeSide(f"{start}one", "stereotype"), ProbeSide(f"{start}two", "against")))
    for start in ("The ", "")
)


class Letters:
    """A tokenizer whose tokens are letters."""

    def __init__(self, bos: int | None, eos: int | None) -> None:
        self.bos_token_id = bos
        self.eos_token_id = eos

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [ord(x) for x in text]}


def test_a_sentence_begins_with_bos_or_else_with_eos() -> None:
    item = SENTENCES
    for tokenizer, start in ((Letters(BOS, EOS), BOS), (Letters(None, EOS), EOS)):
        texts = encoded(item, tokenizer)
        assert [x.prompt + x.target for x in texts] == [
            (start, *map(ord, side.text)) for side in item.sides
        ]
    # A first word that differs is asked for as well.
    assert encoded(APART, Letters(None, EOS))[0].prompt == (EOS,)


@pytest.mark.parametrize("probe", ["people", "questions"])
def test_prompts_begin_as_those_of_tasks_do(probe) -> None:
    item = items(probe)[0]
    with_bos, without = (encoded(item, Letters(bos, EOS)) for bos in (BOS, None))
    assert [x.prompt for x in with_bos] == [(BOS, *x.prompt) for x in without]
    assert without[0].prompt[0] == ord((item.instruction or item.sides[0].prompt)[0])
    assert encoded(item, Letters(None, None)) == without
    if item.instruction is not None:
        row = encode_row(Letters(None, EOS), item.instruction, item.input, item.sides[0].text)
        assert (row.prompt, row.target) == (without[0].prompt, (*without[0].target, EOS))


def test_a_sentence_with_nothing_before_it_is_refused() -> None:
    with raises(UsageError, got="a tokenizer with neither BOS nor EOS"):
        encoded(SENTENCES, Letters(None, None))
