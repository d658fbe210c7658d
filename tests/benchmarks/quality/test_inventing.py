"""Prompts that the base model makes up."""

from __future__ import annotations

import torch

from benchmarks.quality.harness.inventing import _before, frame_of, invented
from hydraopt.basemodel.encoding import Encoded


def test_a_frame_is_what_all_begin_and_end_with() -> None:
    assert frame_of([(1, 2, 3, 8, 9), (1, 2, 4, 4, 8, 9)]) == (2, 2)
    assert frame_of([(1, 2), (1, 2)]) == (2, 0)
    assert frame_of([(1, 2, 2), (1, 2)]) == (2, 0)  # nothing is in both
    assert frame_of([(5, 1), (6, 2)]) == (0, 0)


def test_what_is_written_stops_before_the_ending() -> None:
    assert _before((4, 5, 8, 9, 8, 9), (8, 9)) == (4, 5)
    assert _before((4, 5, 8), (8, 9)) == ()


class Writer:
    """In a model's place: it goes on with what it is told to write, row by row."""

    def __init__(self, *texts: tuple[int, ...]) -> None:
        self.texts, self.shown = texts, []

    def generate(self, input_ids, max_new_tokens, **_):
        self.shown.append(tuple(input_ids[0].tolist()))
        rows = [
            (*shown, *(self.texts[i % len(self.texts)] + (0,) * max_new_tokens)[:max_new_tokens])
            for i, shown in enumerate(input_ids.tolist())
        ]
        return torch.tensor(rows)


def test_new_prompts_in_the_frame_of_the_seeds(trained) -> None:
    tokenizer = trained[1]
    between = tuple(tokenizer("\n\n", add_special_tokens=False)["input_ids"])
    seeds = [(1, 20, 21, 30 + k, 40 + k, 8, 9) for k in range(6)]
    known, new, other = (30, 40, 8, 9), (50, 51, 8, 9), (52, 8, 9, 53, 8, 9)
    writer = Writer(known, new, (8, 9), (50, 51, 52), other)
    made = invented(writer, tokenizer, [Encoded(x, ()) for x in seeds], 8, seed=0)
    # What is known, empty or has no end is no prompt, and none is there twice.
    assert {x.prompt for x in made} == {(1, 20, 21, 50, 51, 8, 9), (1, 20, 21, 52, 8, 9)}
    for shown in writer.shown:
        assert shown.count(1) == 1  # BOS stands at the front alone
        assert shown[-len(between) - 2 :] == (*between, 20, 21)
        assert sum(shown[i : i + 2] == (8, 9) for i in range(len(shown))) == 5
    one = invented(Writer(new, other), tokenizer, [Encoded(x, ()) for x in seeds], 1, seed=0)
    assert [x.prompt for x in one] == [(1, 20, 21, 50, 51, 8, 9)]
