"""What is learned from: the gradient is that of the KL an answer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hydraopt.basemodel.encoding import collate
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import attached, hidden_states, place
from hydraopt.harm import training_data as training_data_module
from hydraopt.harm.training_data import Teacher, TrainingData, model_to_train
from tests.basemodel.cases import factors_of, texts_of
from tests.small_model import tiny_llama


def test_the_gradient_is_that_of_the_definition(trained) -> None:
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    original = factors_of(0, 0.05)
    other = place(model, factors_of(1, 0.05))

    def leaves():
        return {p: (b.clone().requires_grad_(), a.clone()) for p, (b, a) in other.items()}

    mine, wanted = leaves(), leaves()
    data = TrainingData.of(model, Teacher(original, texts), len(texts))
    data.add_gradients(model, mine, 0)
    batch = collate(texts)
    with torch.no_grad(), attached(model, place(model, original)):
        aim = logits_of(model, hidden_states(model, batch), {})
    with attached(model, wanted):
        got = logits_of(model, hidden_states(model, batch), {})
    # Of the next tokens, those that matter alone are compared.
    assert 1 < len(data.next_tokens.tokens) < len(model.get_output_embeddings().weight)
    target, said = (x[:, data.next_tokens.tokens].log_softmax(-1) for x in (aim, got))
    kl = F.kl_div(said, target, log_target=True, reduction="sum") / len(texts)
    kl.backward()
    for path, (b, _) in mine.items():
        assert b.grad.abs().max() > 0
        torch.testing.assert_close(b.grad, wanted[path][0].grad, rtol=1e-3, atol=1e-4)


def test_long_texts_share_no_batch(trained, monkeypatch) -> None:
    """A gradient keeps what all modules see of a batch, so its tokens are bounded."""
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    longest = max(map(len, texts))
    original = factors_of(0, 0.05)
    assert len(TrainingData.of(model, Teacher(original, texts), len(texts)).batches) == 1
    monkeypatch.setattr(training_data_module, "MOST_BATCH_TOKENS", 2 * longest)
    pages = TrainingData.of(model, Teacher(original, texts), len(texts)).batches
    assert all(page.batch.ids.numel() <= 2 * longest for page in pages)
    assert sum(int(page.batch.row.max()) + 1 for page in pages) == len(texts)
    monkeypatch.setattr(training_data_module, "MOST_BATCH_TOKENS", 1)
    assert len(TrainingData.of(model, Teacher(original, texts), len(texts)).batches) == len(texts)


@pytest.mark.parametrize("halves", [True, False])
def test_who_learns(trained, monkeypatch, halves) -> None:
    model, tokenizer = trained
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: halves)
    learner = model_to_train(model)
    assert (learner is model) == (not halves)
    kept = {x.dtype for x in model.parameters()}
    assert kept == {torch.float32}
    assert {x.dtype for x in learner.parameters()} == ({torch.bfloat16} if halves else kept)
    # It thinks nearly the same, and its gradient points the same way.
    texts = texts_of(tokenizer, 6)
    slopes = []
    for who in (model, learner):
        original, other = factors_of(0, 0.05), place(who, factors_of(1, 0.05))
        leaves = {
            p: (b.float().requires_grad_(), a.float().requires_grad_())
            for p, (b, a) in other.items()
        }
        TrainingData.of(who, Teacher(original, texts), len(texts)).add_gradients(who, leaves, 0)
        slopes.append(torch.cat([x.grad.flatten() for pair in leaves.values() for x in pair]))
    assert F.cosine_similarity(*slopes, dim=0) > 0.99


def test_no_copy_is_made_that_has_no_room(trained, monkeypatch) -> None:
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: True)
    size = sum(2 * x.numel() for x in trained[0].parameters())
    monkeypatch.setattr(training_data_module, "most_memory", lambda: 4 * size)
    assert model_to_train(trained[0]) is not trained[0]
    monkeypatch.setattr(training_data_module, "most_memory", lambda: 4 * size - 1)
    assert model_to_train(trained[0]) is trained[0]


def test_tied_weights_stay_tied(trained, monkeypatch) -> None:
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: True)
    model = tiny_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    learner = model_to_train(model)
    assert learner.lm_head.weight is learner.model.embed_tokens.weight


def test_what_is_not_kept_is_made_again(trained, monkeypatch) -> None:
    """Aims take memory by the token; learning from them is the same without."""
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    original = factors_of(0, 0.05)
    slopes = []
    for kept in (1 << 30, 0):
        monkeypatch.setattr(training_data_module, "MOST_STORED", kept)
        data = TrainingData.of(model, Teacher(original, texts), 2)
        assert [x.target is None for x in data.batches] == [kept == 0] * 3
        leaves = {
            p: (b.clone().requires_grad_(), a)
            for p, (b, a) in place(model, factors_of(1, 0.05)).items()
        }
        for number in range(3):
            data.add_gradients(model, leaves, number)
        slopes.append(torch.cat([b.grad.flatten() for b, _ in leaves.values()]))
    assert torch.equal(*slopes)
