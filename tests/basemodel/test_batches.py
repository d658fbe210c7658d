"""Batches in which beginnings are shared give what the texts alone give."""

from __future__ import annotations

import random

import pytest
import torch

from hydraopt.basemodel import batches
from hydraopt.basemodel.batches import batch_of_each, batches_of
from hydraopt.basemodel.encoding import Encoded, collate
from hydraopt.basemodel.model import hidden_states
from hydraopt.basemodel.trie import lines_of, trie_of

BEGINNING = tuple(range(1, 21))


@pytest.fixture
def model(sharp):
    return sharp


def texts(count: int, beginning: tuple[int, ...] = BEGINNING, most: int = 12) -> list[Encoded]:
    rng = random.Random(count)
    draw = lambda n: tuple(rng.randrange(21, 97) for _ in range(n))  # noqa: E731
    return [
        Encoded(beginning + draw(rng.randint(0 if beginning else 1, most)), draw(rng.randint(1, 9)))
        for _ in range(count)
    ]


def by_text(which, batch, values) -> dict[int, torch.Tensor]:
    return {i: values[batch.row == k] for k, i in enumerate(which)}


@torch.inference_mode()
def alone(model, text: Encoded) -> torch.Tensor:
    return hidden_states(model, collate([text]))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("count", [2, 7, 60])
def test_a_text_is_read_as_it_is_alone(model, implementation, count) -> None:
    model.set_attn_implementation(implementation)
    some = texts(count)
    made = batches_of(model, some)
    assert any(batch.parents is not None for _, batch in made)  # else this test shows nothing
    read = {}
    for which, batch in made:
        with torch.inference_mode():
            read |= by_text(which, batch, hidden_states(model, batch))
        labels = by_text(which, batch, batch.labels)
        assert all(tuple(labels[i].tolist()) == some[i].target for i in which)
    assert sorted(read) == list(range(count))
    for i, text in enumerate(some):
        torch.testing.assert_close(read[i], alone(model, text), rtol=1e-4, atol=1e-4)


def test_one_batch_has_all_texts(model) -> None:
    some = texts(60)
    (batch,) = batch_of_each(model, [some])
    assert batch.parents is not None
    assert len(batch.ids) > 1
    assert batch.row.unique().tolist() == list(range(60))
    assert sorted(batch.labels.tolist()) == sorted(x for text in some for x in text.target)


def test_a_gradient_goes_through_a_shared_beginning_once_for_each_text(model) -> None:
    some, weight = texts(9), model.get_submodule("model.layers.0.mlp.up_proj").weight

    def slope(several) -> torch.Tensor:
        total = sum(hidden_states(model, batch).sum() for batch in several)
        return torch.autograd.grad(total, weight)[0]

    (shared,) = batch_of_each(model, [some])
    assert shared.parents is not None
    wanted = slope([collate([text]) for text in some])
    torch.testing.assert_close(slope([shared]), wanted, rtol=1e-3, atol=1e-3)


def test_a_model_is_tried_once_for_all_groups(model, monkeypatch) -> None:
    tried = []
    real = batches.shares_beginnings
    monkeypatch.setattr(batches, "shares_beginnings", lambda *x: tried.append(1) or real(*x))
    some = texts(40)
    made = batch_of_each(model, [some[i : i + 8] for i in range(0, 40, 8)])
    assert [int(batch.row.max()) + 1 for batch in made] == [8] * 5
    assert all(batch.parents is not None for batch in made)
    assert tried == [1]


def test_sharing_takes_fewer_tokens(model) -> None:
    some = texts(60)
    shared = sum(batch.ids.numel() for _, batch in batches_of(model, some))
    assert shared < 0.7 * sum(len(text) - 1 for text in some)


@pytest.mark.parametrize("what", ["nothing alike", "window", "masks ignored", "masks refused"])
def test_texts_stand_alone_where_sharing_is_no_good(model, monkeypatch, what) -> None:
    some = texts(18, () if what == "nothing alike" else BEGINNING)
    if what != "nothing alike":  # equal texts show nothing of a model
        some += sorted(some, key=lambda x: x.prompt)[:1] * 2
    real = model.model.forward
    if what == "window":
        monkeypatch.setattr(model.config, "sliding_window", 20, raising=False)
    elif what == "masks ignored":
        monkeypatch.setattr(
            model.model, "forward", lambda attention_mask=None, **more: real(**more)
        )
    elif what == "masks refused":

        def refuse(attention_mask=None, **more):
            if attention_mask is not None:
                raise ValueError("a mask of another shape")
            return real(**more)

        monkeypatch.setattr(model.model, "forward", refuse)
    made = batches_of(model, some)
    assert all(batch.parents is None for _, batch in made)
    assert sorted(i for which, _ in made for i in which) == list(range(len(some)))


@pytest.mark.parametrize("name", ["sliding_window", "attention_chunk_size"])
def test_texts_longer_than_a_window_stand_alone_and_others_share(model, monkeypatch, name) -> None:
    some = [*texts(30), Encoded((*BEGINNING, *range(21, 60)), (7,))]
    monkeypatch.setattr(model.config, name, 45, raising=False)
    made = batches_of(model, some)
    assert sorted(i for which, _ in made for i in which) == list(range(31))
    for which, batch in made:
        assert (30 in which) == (batch.parents is None)
    assert batch_of_each(model, [some])[0].parents is None


def test_equal_texts_are_read_once(model) -> None:
    some = texts(1) * 40
    ((which, batch),) = batches_of(model, some)[:1]
    assert batch.ids.numel() <= 4 * len(some[0])
    with torch.inference_mode():
        read = by_text(which, batch, hidden_states(model, batch))
    for i in which:
        torch.testing.assert_close(read[i], alone(model, some[i]), rtol=1e-4, atol=1e-4)


def test_no_texts_make_no_batch(model) -> None:
    assert batches_of(model, []) == []


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "beginning", "most"), [(1, 0, 5), (200, 20, 12), (40, 600, 90)])
def test_lines_hold_every_text_once_and_are_about_alike(count, beginning, most) -> None:
    some = texts(count, tuple(range(beginning)), most)
    lines = lines_of(some)
    assert sorted(i for which, _ in lines for i in which) == list(range(count))
    sizes = [len(trie.tokens) for _, trie in lines]
    longest = max(len(text) for text in some)
    assert max(sizes) <= max(256, min(2 * longest, 2048))
    assert min(sizes) > max(sizes) / 2


def test_texts_too_long_to_share_a_line_have_lines_of_their_own() -> None:
    some = [Encoded((*range(2500), k), (7,)) for k in (2501, 2502)]
    some += [Encoded((*range(1500), 3000 + k), (7,)) for k in range(600)]
    lines = lines_of(some)
    assert [0] in [which for which, _ in lines]
    assert [1] in [which for which, _ in lines]
    assert all(len(trie.tokens) <= 2048 for which, trie in lines if len(which) > 1)
    assert len(lines) < 5  # a long beginning is read twice, not six hundred times


def test_a_line_asks_for_few_targets() -> None:
    lines = lines_of([Encoded((1, 2), (3, 4, 5))] * 2000)
    assert max(sum(map(len, trie.asked)) for _, trie in lines) <= 128


def test_a_trie_has_what_is_common_once() -> None:
    one, two, three = Encoded((1, 2, 3), (4, 5)), Encoded((1, 2, 3), (4, 6)), Encoded((1, 2), (3,))
    trie = trie_of([one, two, three])
    assert (trie.tokens, trie.parents, trie.depths) == ([1, 2, 3, 4], [-1, 0, 1, 2], [0, 1, 2, 3])
    assert trie.asked == [[2, 3], [2, 3], [1]]
    assert trie.is_one_text
