"""What stands before a probe's texts, with and without a token for the beginning."""

from __future__ import annotations

from typing import Any

import pytest

from hydraopt.basemodel.encoding import encode_row
from hydraopt.errors import UsageError
from hydraopt.probes.items import encoded
from tests.probes.test_probe_files import items
from tests.raising import raises

BOS, EOS = 1, 2


class Letters:
    """A tokenizer whose tokens are letters."""

    def __init__(self, bos: int | None, eos: int | None) -> None:
        self.bos_token_id = bos
        self.eos_token_id = eos

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [ord(x) for x in text]}


def test_a_sentence_begins_with_bos_or_else_with_eos() -> None:
    item = items("crows-pairs")[0]
    for tokenizer, start in ((Letters(BOS, EOS), BOS), (Letters(None, EOS), EOS)):
        texts = encoded(item, tokenizer)
        assert [x.prompt + x.target for x in texts] == [
            (start, *map(ord, side.text)) for side in item.sides
        ]
    # A first word that differs is asked for as well.
    assert encoded(items("crows-pairs")[1], Letters(None, EOS))[0].prompt == (EOS,)


@pytest.mark.parametrize("probe", ["seegull", "bbq", "kobbq"])
def test_prompts_begin_as_those_of_tasks_do(probe) -> None:
    item = items(probe)[0]
    with_bos, without = (encoded(item, Letters(bos, EOS)) for bos in (BOS, None))
    assert [x.prompt for x in with_bos] == [(BOS, *x.prompt) for x in without]
    assert without[0].prompt[0] == ord(item.sides[0].prompt[0])
    assert encoded(item, Letters(None, None)) == without
    if item.layout == "answers":
        instruction, text = item.sides[0].prompt.split("\n", 1)
        row = encode_row(Letters(None, EOS), instruction, text, item.sides[0].text)
        assert (row.prompt, row.target) == (without[0].prompt, (*without[0].target, EOS))


def test_a_sentence_with_nothing_before_it_is_refused() -> None:
    with raises(UsageError, got="a tokenizer with neither BOS nor EOS"):
        encoded(items("winobias")[0], Letters(None, None))
