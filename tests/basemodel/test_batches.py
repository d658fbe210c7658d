"""Batches in which beginnings are shared give what the texts alone give."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from hydraopt.model import (
    Encoded,
    attached,
    batches_of,
    forward as batches,
    forward as likelihoods_module,
    hidden_states,
    likelihoods,
    logits_of,
    place,
)
from hydraopt.model.forward import batch_of_each
from hydraopt.model.texts import collate
from tests.small_model import tiny_llama

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
    real = batches._reads_alike
    monkeypatch.setattr(batches, "_reads_alike", lambda *x: tried.append(1) or real(*x))
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


def test_in_bfloat16_rounding_is_no_reason_to_read_texts_alone() -> None:
    deep = tiny_llama(num_hidden_layers=12).bfloat16()
    ((_, batch),) = batches_of(deep, [Encoded((*BEGINNING, k), (k, 9, 10)) for k in (30, 40)])
    assert batch.parents is not None


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "beginning", "most"), [(1, 0, 5), (200, 20, 12), (40, 600, 90)])
def test_rows_hold_every_text_once_and_are_limited(count, beginning, most) -> None:
    some = texts(count, tuple(range(beginning)), most)
    rows = batches._rows_of(some)
    assert sorted(i for row in rows for i in row) == list(range(count))
    longest = max(len(text) for text in some)
    for row in rows:
        assert len(batches._trie_of([some[i] for i in row])[0]) <= max(256, min(2 * longest, 2048))


def test_texts_too_long_to_share_a_row_have_rows_of_their_own() -> None:
    some = [Encoded((*range(2500), k), (7,)) for k in (2501, 2502)]
    some += [Encoded((*range(1500), 3000 + k), (7,)) for k in range(600)]
    rows = batches._rows_of(some)
    assert [0] in rows
    assert [1] in rows
    assert len(rows) < 5  # a long beginning is read twice, not six hundred times


def test_a_row_asks_for_few_targets() -> None:
    rows = batches._rows_of([Encoded((1, 2), (3, 4, 5))] * 2000)
    assert max(map(len, rows)) * 3 <= 128


def test_a_trie_has_what_is_common_once() -> None:
    one, two, three = Encoded((1, 2, 3), (4, 5)), Encoded((1, 2, 3), (4, 6)), Encoded((1, 2), (3,))
    tokens, parents, asked = batches._trie_of([one, two, three])
    assert (tokens, parents) == ([1, 2, 3, 4], [-1, 0, 1, 2])
    assert asked == [[2, 3], [2, 3], [1]]


# --- log-likelihoods of texts are those of a plain forward pass o --------------------------------


SHARED = tuple(range(40, 70))
TEXTS = [
    Encoded((1, *SHARED, 7), (8, 9)), Encoded((1, *SHARED, 7), (8, 10, 11)),
    Encoded((1, 5), (6, 9)), Encoded((1,), (20, 21, 22, 23)),
    Encoded((1, 30, 31), (32,)), Encoded((1, 40), (32, 33)), Encoded((1, 30, 31), (32,)),
]  # fmt: skip


def _factors(model, *paths: str):
    rng = np.random.default_rng(3)
    sizes = {path: model.get_submodule(path) for path in paths}
    return {
        path: (rng.standard_normal((x.out_features, 2)), rng.standard_normal((2, x.in_features)))
        for path, x in sizes.items()
    }


@torch.inference_mode()
def _plainly(model, item: Encoded, placed) -> float:
    batch = collate([item])
    with attached(model, placed):
        logs = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    return float(logs.gather(1, batch.labels[:, None]).double().sum())


@pytest.mark.parametrize("paths", [("model.layers.0.self_attn.q_proj",), ("lm_head",)])
def test_they_are_those_of_each_text_alone(sharp, monkeypatch, paths) -> None:
    placed = place(sharp, _factors(sharp, *paths))
    wanted = [_plainly(sharp, item, placed) for item in TEXTS]
    assert likelihoods(sharp, TEXTS, placed) == pytest.approx(wanted, abs=1e-4)
    assert abs(likelihoods(sharp, TEXTS, {})[0] - wanted[0]) > 0.01
    monkeypatch.setattr(likelihoods_module, "_TOKENS", 3)
    assert likelihoods(sharp, TEXTS, placed) == pytest.approx(wanted, abs=1e-4)


def test_progress_counts_batches(sharp) -> None:
    seen: list[tuple[int, int]] = []
    likelihoods(sharp, TEXTS, {}, lambda *x: seen.append(x))
    assert [done for done, _ in seen] == list(range(seen[0][1]))
