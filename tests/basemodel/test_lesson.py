"""What is learned from: the gradient is that of the KL an answer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hydraopt.basemodel.encoding import collate
from hydraopt.basemodel.lesson import Lesson
from hydraopt.basemodel.model import attached, hidden_states, logits_of, place
from tests.basemodel.test_gains import factors_of, texts_of


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_that_of_the_definition(trained, temperature) -> None:
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    original, other = (place(model, factors_of(seed, 0.05)) for seed in (0, 1))

    def leaves():
        return {p: (b.clone().requires_grad_(), a.clone()) for p, (b, a) in other.items()}

    mine, wanted = leaves(), leaves()
    lesson = Lesson.of(model, texts, original, len(texts))
    lesson.learn(model, mine, 0, temperature)
    batch = collate(texts)
    with torch.no_grad(), attached(model, original):
        aim = logits_of(model, hidden_states(model, batch))
    with attached(model, wanted):
        got = logits_of(model, hidden_states(model, batch))
    # The output layer of the lesson has the tokens that matter alone.
    rows = model.get_output_embeddings().weight
    tokens = (lesson.weight[:, None] == rows[None]).all(-1).float().argmax(1)
    assert 1 < len(tokens) < len(rows)
    target, said = ((x[:, tokens] / temperature).log_softmax(-1) for x in (aim, got))
    kl = F.kl_div(said, target, log_target=True, reduction="sum") * temperature**2 / len(texts)
    kl.backward()
    for path, (b, _) in mine.items():
        assert b.grad.abs().max() > 0
        torch.testing.assert_close(b.grad, wanted[path][0].grad, rtol=1e-3, atol=1e-4)
