"""What stands before a probe's texts, with and without a token for the beginning."""

from __future__ import annotations

from typing import Any

import pytest

from hydraopt.basemodel.encoding import encode_row
from hydraopt.errors import UsageError
from hydraopt.probes.items import ProbeItem, ProbeSide, encoded
from tests.probes.test_probe_files import items
from tests.raising import raises

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
