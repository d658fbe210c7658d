"""Prompts that the base model makes up from a few: more to learn from than a user has.

What all seeds begin and end with alike, an instruction and a mark, stays; what lies between is
written by the base model, after some seeds as examples. Sources: Self-Instruct (arXiv 2212.10560),
data-free distillation from what a model writes (LLM-QAT, arXiv 2305.17888).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import torch

from hydraopt.basemodel.encoding import Encoded

__all__ = ["frame_of", "invented"]

Tokens = tuple[int, ...]

_EXAMPLES: Final = 5
"""Seeds that a prompt is made up after."""
_ROWS: Final = 16
"""Prompts that are written at once."""
_TRIES: Final = 4
"""Times as many are written at most, for some are no good."""


def frame_of(seeds: Sequence[Tokens]) -> tuple[int, int]:
    """How many tokens all seeds begin with alike, and how many they end with alike after these."""
    shortest = min(map(len, seeds))
    start = next((k for k in range(shortest) if len({x[k] for x in seeds}) > 1), shortest)
    room = shortest - start
    end = next((k for k in range(room) if len({x[-1 - k] for x in seeds}) > 1), room)
    return start, end


@torch.inference_mode()
def invented(
    model: Any, tokenizer: Any, prompts: Sequence[Encoded], count: int, seed: int
) -> list[Encoded]:
    """``count`` prompts like these, fewer if the base writes no more that are new and fit.

    prompts: two at least. The same arguments give the same prompts; torch's own generator is set.
    """
    seeds = [item.prompt for item in prompts]
    start, end = frame_of(seeds)
    ending = seeds[0][len(seeds[0]) - end :]
    between = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    longest = max(len(x) - start - end for x in seeds)
    known, made = set(seeds), []
    draw = Random(seed)
    torch.manual_seed(seed)
    for _ in range(-(-_TRIES * count // _ROWS)):
        examples = draw.sample(seeds, min(_EXAMPLES, len(seeds)))
        shown = _shown(examples, between, start, tokenizer.bos_token_id)
        out = model.generate(
            input_ids=torch.tensor([shown] * _ROWS),
            attention_mask=torch.ones(_ROWS, len(shown), dtype=torch.long),
            max_new_tokens=2 * longest + len(ending or between),
            do_sample=True,
            temperature=1.0,
            top_p=0.95,
            top_k=0,
            pad_token_id=tokenizer.eos_token_id,
        )
        for row in out[:, len(shown) :].tolist():
            middle = _before(tuple(row), ending or between)
            whole = (*seeds[0][:start], *middle, *ending)
            if middle and whole not in known:
                known.add(whole)
                made.append(Encoded(whole, ()))
        if len(made) >= count:
            break
    return made[:count]


def _shown(
    examples: Sequence[Tokens], between: Sequence[int], start: int, bos: int | None
) -> list[int]:
    """Some seeds one below the other, and the beginning of one more."""
    marked = bos is not None and examples[0][0] == bos
    shown = list(examples[0][:marked])
    for example in examples:
        shown += [*example[marked:], *between]
    return [*shown, *examples[0][marked:start]]


def _before(tokens: Tokens, ending: Sequence[int]) -> Tokens:
    """What stands before the first ending; nothing if there is none."""
    size = len(ending)
    for k in range(len(tokens) - size + 1):
        if tokens[k : k + size] == tuple(ending):
            return tokens[:k]
    return ()
