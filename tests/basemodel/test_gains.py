"""Coefficients fitted to what the model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.basemodel import gains as module
from hydraopt.basemodel.encoding import Encoded, collate
from hydraopt.basemodel.gains import gains
from hydraopt.basemodel.model import AnyFactors, attached, hidden_states, logits_of, place
from hydraopt.basemodel.onlooker import Onlooker
from hydraopt.basemodel.writing import answered
from hydraopt.coding.coefficients import EXPONENT_GRID

PATHS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qo"]


def factors_of(seed: int, size: float = 0.5) -> dict[str, AnyFactors]:
    rng = np.random.default_rng(seed)
    return {
        path: (
            size * rng.standard_normal((32, 3)).astype(np.float32),
            rng.standard_normal((3, 32)).astype(np.float32),
        )
        for path in PATHS
    }


def texts_of(tokenizer, count: int = 10) -> list[Encoded]:
    rows = []
    for i in range(count):
        ids = tokenizer(f"Spell.\n{i}\n=> number {i}")["input_ids"]
        rows.append(Encoded((1, *ids[:6]), tuple(ids[6:])))
    return rows


@torch.no_grad()
def divergence(model, texts, original, coded) -> float:
    """KL over whole distributions, without the module's own shortcuts."""
    batch = collate(texts)
    with attached(model, place(model, original)):
        want = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    with attached(model, place(model, coded)):
        got = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    return float((want.exp() * (want - got)).sum(-1).mean())


def grown(coded: dict[str, AnyFactors], steps: dict[str, np.ndarray]) -> dict[str, AnyFactors]:
    zero = np.zeros(1)
    return {
        path: (b * 2.0 ** (steps.get(path, zero) / EXPONENT_GRID), a)
        for path, (b, a) in coded.items()
    }


def test_parts_that_are_too_short_grow_back(trained) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0), texts_of(tokenizer)
    # Every part is 15 % too short; not all of that shows on these few texts.
    short = {path: (0.85 * b, a) for path, (b, a) in original.items()}
    found = gains(model, texts, original, short)
    assert sorted(found) == sorted(PATHS)
    assert all(steps.shape == (3,) and steps.dtype == np.int64 for steps in found.values())
    assert np.mean(np.concatenate([*found.values()])) > 0
    before = divergence(model, texts, original, short)
    # How much depends on the model, and that on how the processor rounded while it learned.
    assert divergence(model, texts, original, grown(short, found)) < 0.8 * before


def test_every_module_is_mended(trained) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer)
    short = {path: (0.85 * b, a) for path, (b, a) in original.items()}
    found = gains(model, texts, original, short)
    assert all(found[path].any() for path in PATHS)


def test_the_divergence_is_that_of_the_coded_from_the_original(trained) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0), texts_of(tokenizer)
    coded = {path: (0.5 * b, a) for path, (b, a) in original.items()}
    batch = collate(texts)
    aim = module._Aim.of(model, batch, place(model, original))
    got = module._divergence(model, place(model, coded), batch, aim)
    assert got == pytest.approx(divergence(model, texts, original, coded), rel=1e-4)
    # Not the other way round.
    assert got != pytest.approx(divergence(model, texts, coded, original), rel=0.05)


def test_one_text_in_four_judges(trained, monkeypatch) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer, 12)
    short = {path: (0.85 * b, a) for path, (b, a) in original.items()}
    seen = []
    collated = module.collate
    monkeypatch.setattr(module, "collate", lambda x: seen.append(list(x)) or collated(x))
    assert gains(model, texts, original, short)
    *learned, judges = seen
    assert judges == [texts[3], texts[7], texts[11]]
    assert [len(x) for x in learned] == [8, 1]
    assert not [text for x in learned for text in x if text in judges]
    # If what was learned is worse there, nothing is taken.
    monkeypatch.setattr(module, "_learn", lambda *_: {p: torch.full((3,), -0.1) for p in PATHS})
    assert gains(model, texts, original, short) == {}


def test_what_is_right_stays(trained) -> None:
    model, tokenizer = trained
    original = factors_of(0)
    assert gains(model, texts_of(tokenizer), original, original) == {}


def test_it_is_never_worse_on_what_it_held_out_and_the_model_stays_as_it_was(trained) -> None:
    model, tokenizer = trained
    before = {name: x.clone() for name, x in model.state_dict().items()}
    texts = texts_of(tokenizer)
    for seed in range(4):
        original, noise = factors_of(seed), factors_of(100 + seed)
        coded = {path: (b + 0.3 * noise[path][0], a) for path, (b, a) in original.items()}
        found = gains(model, texts, original, coded)
        worse = divergence(model, texts[3::4], original, coded)
        assert divergence(model, texts[3::4], original, grown(coded, found)) <= worse + 1e-9
        assert np.array_equal(coded[PATHS[0]][0], original[PATHS[0]][0] + 0.3 * noise[PATHS[0]][0])
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not any(x.requires_grad for x in model.parameters())


def test_nothing_to_grow_and_nothing_to_see(trained) -> None:
    model, tokenizer = trained
    original = factors_of(0)
    empty = {path: (np.zeros((32, 0)), np.zeros((0, 32))) for path in PATHS}
    assert gains(model, texts_of(tokenizer), original, empty) == {}
    short = {path: (0.8 * b, a) for path, (b, a) in original.items()}
    assert gains(model, [], original, short) == {}
    assert gains(model, texts_of(tokenizer, 3), original, short) == {}
    silent = [Encoded(text.prompt, ()) for text in texts_of(tokenizer)]
    assert gains(model, silent, original, short) == {}
    mixed = {**short, PATHS[1]: empty[PATHS[1]]}
    assert PATHS[1] not in gains(model, texts_of(tokenizer), original, mixed)


def test_logits_in_pieces_are_the_same(trained, monkeypatch) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0), texts_of(tokenizer)
    short = {path: (0.85 * b, a) for path, (b, a) in original.items()}
    whole = gains(model, texts, original, short)
    monkeypatch.setattr(module, "_TOKENS", 3)
    pieces = gains(model, texts, original, short)
    for path, steps in whole.items():
        assert np.abs(pieces[path] - steps).max() <= 1


def test_prompts_fit_the_tasks_that_have_them(trained, make_adapter, tmp_path: Path) -> None:
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    names = ("en", "fr", "it")
    folders = [make_adapter(tmp_path / n, factors_of(i, 0.05)) for i, n in enumerate(names)]
    adapters = read_adapters(folders)
    prompts = [f"Spell.\n{i}\n=>" for i in range(32)]
    told = []
    onlooker = Onlooker(
        str(tmp_path / "base"),
        adapters,
        {"fr": prompts},
        lambda stage, done, total: told.append((stage, done, total)),
    )
    plain, fitted = tmp_path / "plain", tmp_path / "fitted"
    merge(adapters, plain, size="40%", rescaler=lambda name, coded: {})
    merge(adapters, fitted, size="40%", rescaler=onlooker.gains)
    assert told == [("answers of fr", 32, 32), ("fitting to answers", 1, 1)]
    before, after = open_bundle(plain), open_bundle(fitted)
    streams = {name: before.manifest.tasks[i].content for i, name in enumerate(names)}
    for name, content in streams.items():
        same = before.read(f"task/{content}") == after.read(f"task/{content}")
        assert same == (name != "fr")
    model, tokenizer = trained
    original = {path: x.factors() for path, x in adapters[1].modules.items()}
    asked = [Encoded((1, *tokenizer(p)["input_ids"]), ()) for p in prompts]
    rows = answered(model, tokenizer, asked, original)

    def harm(bundle) -> float:
        coded = {path: (f.B, f.A) for path, f in bundle["fr"].factors().items()}
        return divergence(model, rows, original, coded)

    assert harm(after) < harm(before)
