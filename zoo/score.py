"""Teacher-forced scores of adapters, and how much of an adapter's gain a compressed one recovers.

Exact match needs no generation: greedy decoding reproduces a row exactly when every target token is
the argmax given the true tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch.nn import functional as F

from hydraopt.model import batches_by_tokens
from zoo.batching import Encoded, collate, encode, target_logits
from zoo.tasks import Row

BATCH_TOKENS = 1024  # large enough that matrix products run at full speed on a CPU


class Score(TypedDict):
    """nll: mean loss per target token in nats.  tok, em: fractions in [0, 1].  n: rows."""

    nll: float
    tok: float
    em: float
    n: int


def score(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    instruction: str,
    max_tokens: int | None = None,
) -> Score:
    """Teacher-forced score of the model as it is (attached adapters included) on `rows`.

    max_tokens: rows that are longer, prompt and target together, are left out.
    """
    return score_encoded(model, encode(tokenizer, rows, instruction, max_tokens))


@torch.inference_mode()
def score_encoded(model: Any, items: Sequence[Encoded]) -> Score:
    """Teacher-forced score on rows that are token ids already; ValueError when there are none."""
    if not items:
        raise ValueError("no rows to score: none given, or all longer than max_tokens")
    loss, right, exact, tokens = 0.0, 0, 0, 0
    for chunk in batches_by_tokens([len(item) for item in items], BATCH_TOKENS):
        batch = collate([items[i] for i in chunk])
        logits = target_logits(model, batch)
        hit = logits.argmax(-1) == batch.labels
        loss += F.cross_entropy(logits, batch.labels, reduction="sum").item()
        right += int(hit.sum())
        tokens += hit.numel()
        exact += len(chunk) - len(set(batch.row[~hit].tolist()))
    return Score(nll=loss / tokens, tok=right / tokens, em=exact / len(items), n=len(items))


def recovery(base_nll: float, adapter_nll: float, bundle_nll: float) -> float:
    """(base - bundle) / (base - adapter): 1 is the adapter's whole gain, 0 is none of it.

    Above 1 when the bundle is better than the adapter. ValueError when the adapter gains nothing.
    """
    gain = base_nll - adapter_nll
    if gain <= 0:
        raise ValueError(
            f"the adapter gains nothing: base {base_nll:.4f}, adapter {adapter_nll:.4f}"
        )
    return (base_nll - bundle_nll) / gain
