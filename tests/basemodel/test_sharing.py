"""Whether a model reads a trie of texts as it reads each text alone."""

from __future__ import annotations

import pytest

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.sharing import shares_beginnings
from tests.small_model import tiny_llama

GROUPS = [
    [Encoded((1, 5, 6, 7), (8, 9)), Encoded((1, 5, 6, 7), (8, 10, 11)), Encoded((1, 5), (6, 9))],
    [Encoded((1,), (20, 21, 22, 23))],
    [Encoded((1, 30, 31), (32,)), Encoded((1, 40), (32, 33)), Encoded((1, 30, 31), (32,))],
]


@pytest.fixture
def model(sharp):
    return sharp


def test_a_model_that_reads_tries_otherwise_is_known(model, monkeypatch) -> None:
    assert shares_beginnings(model, [GROUPS[2]])
    # As a model would that takes no notice of the mask.
    real = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda attention_mask=None, **more: real(**more))
    assert not shares_beginnings(model, [GROUPS[2]])


def test_texts_that_show_nothing_are_no_proof(model, monkeypatch) -> None:
    one = Encoded((1, 5, 6), (7, 8))
    assert shares_beginnings(model, [[one, one]]) is None
    assert shares_beginnings(model, [[one, Encoded((1, 5, 6), (7, 9))]]) is None
    assert shares_beginnings(model, [[one, one], [one, Encoded((1, 5, 6), (9, 8))]])
    monkeypatch.setattr(model.config, "sliding_window", 4, raising=False)
    assert shares_beginnings(model, [GROUPS[0]]) is None


def test_in_bfloat16_rounding_is_no_reason_to_read_texts_alone() -> None:
    deep = tiny_llama(num_hidden_layers=12).bfloat16()
    group = [Encoded((1, *range(5, 25), k), (k, 9, 10)) for k in (30, 40)]
    assert shares_beginnings(deep, [group])
