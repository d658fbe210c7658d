"""Teacher-forced scores of adapters, and how much of an adapter's gain a compressed one recovers.

    python -m zoo.score --base gemma-3-270m --tasks TASKS --rows 200 ADAPTER_DIR...

Exact match needs no generation: greedy decoding reproduces a row exactly when every target token is
the argmax given the true tokens before it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.nn import functional as F

from hydraopt.basemodel.encoding import batches_by_tokens
from zoo.bases import load_base
from zoo.batching import Encoded, collate, encode, target_logits
from zoo.lora import Factors, attached, read_peft
from zoo.tasks import Row, first_rows, load_task

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


class Scorer:
    """Loads a base once and scores any number of factor sets on it."""

    def __init__(self, base_name: str, dtype: torch.dtype = torch.float32) -> None:
        """Load `base_name`, a key of `zoo.bases.BASES`; see `load_base` for the dtype."""
        self.model, self.tokenizer = load_base(base_name, dtype)

    def score_base(
        self, rows: Sequence[Row], instruction: str, max_tokens: int | None = None
    ) -> Score:
        """Score of the base without any adapter."""
        return score(self.model, self.tokenizer, rows, instruction, max_tokens)

    def score_factors(
        self,
        factors: Factors,
        rows: Sequence[Row],
        instruction: str,
        max_tokens: int | None = None,
    ) -> Score:
        """Score of the base with W + B @ A in the named modules, the scale already folded into B.

        factors: module path (`model.layers.0.self_attn.q_proj`) -> (B: (m, r), A: (r, n)); ranks
        may differ between modules. Modules that are not named stay as they are.
        """
        with attached(self.model, factors):
            return score(self.model, self.tokenizer, rows, instruction, max_tokens)


def adapter_task(folder: Path) -> tuple[str, str]:
    """The (task, language) an adapter was trained for, from its `score.json` ("task/language")."""
    file = folder / "score.json"
    if not file.is_file():
        raise SystemExit(f"{folder} has no score.json that names its task")
    task, slash, language = json.loads(file.read_text(encoding="utf-8"))["task"].partition("/")
    if not slash:
        raise SystemExit(f"{file}: 'task' must look like number_words/de, not {task!r}")
    return task, language


def main() -> None:
    """Command line: a table of scores for adapters of one base."""
    parser = argparse.ArgumentParser(
        description="Score adapters on test rows of the task that their score.json names.",
        epilog="Recovery is relative to the losses in score.json: 1.000 reproduces them.",
    )
    parser.add_argument("--base", required=True)
    parser.add_argument("--tasks", type=Path, help="folder of task folders; default: generate them")
    parser.add_argument("--rows", type=int, default=200, help="test rows per task (default 200)")
    parser.add_argument(
        "--max-tokens", type=int, help="leave out rows longer than this, prompt and target"
    )
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER_DIR")
    args = parser.parse_args()
    scorer = Scorer(args.base)
    print(f"{'adapter':24}    n  nll base     nll    tok     em  recovery")
    for folder in args.adapters:
        name, language = adapter_task(folder)
        task = load_task(name, language, args.tasks)
        rows = first_rows(task.test, args.rows)
        base = scorer.score_base(rows, task.instruction, args.max_tokens)
        found = scorer.score_factors(read_peft(folder), rows, task.instruction, args.max_tokens)
        stored = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        share = recovery(stored["before"]["nll"], stored["after"]["nll"], found["nll"])
        print(
            f"{folder.name:24} {found['n']:4d} {base['nll']:9.4f} {found['nll']:7.4f} "
            f"{found['tok']:6.4f} {found['em']:6.4f} {share:9.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
