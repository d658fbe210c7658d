"""Methods over whole adapters: what comes out is stored, merged and loaded like what was read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapter, read_adapters
from hydraopt.adapters import Adapter, ScaleRule
from hydraopt.bundle import pack_carried
from hydraopt.codec import Factors
from hydraopt.errors import AdapterFormatError, AlignmentError, NumericalError, UsageError
from hydraopt.merging import METHODS, Merged, Method, apply, merge
from hydraopt.merging.hydra import fit_exact
from tests.methods.method_cases import AVERAGE, apart
from tests.raising import raises

PATHS = ("h.0.q", "h.0.v", "h.1.q", "h.1.v")
KINDS = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0}
M, N, R = 24, 32, 4


def modules(seed: int, kind: int, paths: tuple[str, ...] = PATHS, r: int = R) -> dict[str, Any]:
    """(B, A) by path: a multiple of the kind's matrix and a little of its own, in fp16's range."""
    made = {}
    for i, path in enumerate(paths):
        common, own = np.random.default_rng([kind, i]), np.random.default_rng([seed, i, 1])
        b, a = common.standard_normal((M, r)), common.standard_normal((r, N))
        made[path] = (
            (0.1 * (1 + seed) * b).astype(np.float32),
            (a + 0.1 * own.standard_normal((r, N))).astype(np.float32),
        )
    return made


@pytest.fixture
def five(make_adapter: Callable[..., Path], tmp_path: Path) -> list[Adapter]:
    folders = [
        make_adapter(tmp_path / name, modules(i, kind), alpha=2 * R)
        for i, (name, kind) in enumerate(KINDS.items())
    ]
    return read_adapters(folders)


def delta(adapter: Adapter, path: str) -> Any:
    b, a = adapter.modules[path].factors()
    return b.astype(np.float64) @ a.astype(np.float64)


def squares(adapters: list[Adapter]) -> dict[str, float]:
    """|dW|^2 of each adapter: with these weights, absolute errors count alike."""
    return {x.name: sum(float(np.sum(delta(x, p) ** 2)) for p in PATHS) for x in adapters}


def read_back(adapter: Adapter, folder: Path) -> Adapter:
    """The adapter after a lossless bundle and PEFT's folder."""
    folder.mkdir(exist_ok=True)
    merge([adapter], folder / "one.safetensors", lossless=True)
    open_bundle(folder / "one.safetensors")[adapter.name].save_pretrained(folder / "peft")
    return read_adapter(folder / "peft", name=adapter.name)


def test_hydra_makes_what_the_fit_says(five: list[Adapter]) -> None:
    made = apply(five, "hydraopt", heads=2, rank=8, weights=squares(five), dtype="float32")
    assert [x.name for x in made] == list(KINDS)
    for path in PATHS:
        factors = [Factors(*map(np.float64, x.modules[path].factors())) for x in five]  # type: ignore[arg-type]
        fit = fit_exact(factors, 2, 8)
        assert fit.assignment.tolist() == list(KINDS.values())
        for t, adapter in enumerate(made):
            want = fit.scales[t] * fit.heads[fit.assignment[t]] @ fit.A
            assert apart(delta(adapter, path), want) < 1e-5
            # alpha/r, which is 2, is inside the original dW, so the fit has to be near it.
            assert apart(delta(adapter, path), delta(five[t], path)) < 0.2


def test_lossless_stores_one_input_and_each_head_once(five: list[Adapter], tmp_path: Path) -> None:
    made = apply(five, "hydraopt", heads=2, rank=4)
    tensors = [tensor for adapter in made for tensor in adapter.tensors.values()]
    carried = pack_carried({adapter.name: adapter.tensors for adapter in made})
    stored = sum(x.nbytes for blob in carried.blobs for x in blob.items if x.of is None)
    assert stored == len(PATHS) * 2 * (4 * N + 2 * M * 4)
    assert sum(x.nbytes for x in tensors) == 5 * len(PATHS) * 2 * (4 * N + M * 4)
    for path in PATHS:
        assert len({x.modules[path].a.raw() for x in made}) == 1
        assert len({x.modules[path].b.raw() for x in made}) == 2
        assert len({x.modules[path].scale for x in made}) == 5
    result = merge(made, tmp_path / "shared.safetensors", lossless=True)
    whole = merge(five, tmp_path / "whole.safetensors", lossless=True)
    # Random fp16 does not shrink: most of the file is what was counted, the rest its manifest.
    assert stored <= result.size < stored + 6000 < whole.size
    bundle = open_bundle(tmp_path / "shared.safetensors")
    for adapter in made:
        for path, factors in bundle[adapter.name].factors().items():
            assert apart(factors.B @ factors.A, delta(adapter, path)) < 1e-6


def test_one_merged_adapter_is_one_content(five: list[Adapter], tmp_path: Path) -> None:
    made = apply(five, AVERAGE)
    carried = pack_carried({adapter.name: adapter.tensors for adapter in made})
    assert len(carried.blobs) == 1
    assert len({adapter.content_hash() for adapter in made}) == 1
    merge(made, tmp_path / "small.safetensors", size="40%")
    bundle = open_bundle(tmp_path / "small.safetensors")
    first = {path: f.B @ f.A for path, f in bundle["a"].factors().items()}
    for name in KINDS:
        for path, factors in bundle[name].factors().items():
            assert np.array_equal(factors.B @ factors.A, first[path])
    assert apart(first["h.0.q"], delta(made[0], "h.0.q")) < 0.5


@pytest.mark.parametrize("method", [*METHODS, AVERAGE])
def test_every_method_comes_back_from_a_peft_folder(
    method: str | Method, five: list[Adapter], tmp_path: Path
) -> None:
    made = apply(five[:2], method)
    assert [x.name for x in made] == ["a", "b"]
    again = read_back(made[1], tmp_path)
    assert again.content_hash() == made[1].content_hash()
    for path in PATHS:
        assert np.array_equal(delta(again, path), delta(made[1], path))
        assert np.isfinite(delta(again, path)).all()


def test_mixed_ranks_scales_and_modules(make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    folders = [
        make_adapter(tmp_path / "x", modules(0, 0, r=3), alpha=6, use_rslora=True),
        make_adapter(tmp_path / "y", modules(1, 0, PATHS[:2], r=5), alpha=5),
        make_adapter(
            tmp_path / "z", modules(2, 1, PATHS[1:], r=4), alpha_pattern={"h.0.v": 2, "q": 12}
        ),
    ]
    adapters = read_adapters(folders)
    made = apply(adapters, "hydraopt", rank=32, dtype="float32")
    for old, new in zip(adapters, made, strict=True):
        assert list(new.modules) == list(old.modules)
        assert new.config["use_rslora"] is False
        again = read_back(new, tmp_path / f"back-{new.name}")
        for path in old.modules:
            assert apart(delta(again, path), delta(old, path)) < 1e-5
    # Modules of three, two and two tasks have cores of different widths.
    ranks = {path: x.r for adapter in made for path, x in adapter.modules.items()}
    assert ranks == {"h.0.q": 8, "h.0.v": 12, "h.1.q": 7, "h.1.v": 7}
    assert made[0].config["r"] == 7
    assert made[0].config["rank_pattern"] == {"h.0.q": 8, "h.0.v": 12}
    assert {x.name: set(x.modules) for x in made}["y"] == set(PATHS[:2])


def test_weights_go_to_the_adapters_that_have_the_module(
    make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [PATHS[:1], PATHS[:2], PATHS[1:2]]
    folders = [make_adapter(tmp_path / f"x{i}", modules(i, i, p)) for i, p in enumerate(paths)]
    adapters = read_adapters(folders)
    weights = {"x0": 0.2, "x1": 0.5, "x2": 0.3}
    made = apply(adapters, AVERAGE, weights=weights, dtype="float32")
    first = 0.2 * delta(adapters[0], PATHS[0]) + 0.5 * delta(adapters[1], PATHS[0])
    second = 0.5 * delta(adapters[1], PATHS[1]) + 0.3 * delta(adapters[2], PATHS[1])
    assert apart(delta(made[1], PATHS[0]), first) < 1e-5
    assert apart(delta(made[2], PATHS[1]), second) < 1e-5


def test_scales_go_into_alpha_and_not_into_heads(five: list[Adapter]) -> None:
    made = apply(five, "hydraopt", heads=1, rank=4)
    for path in PATHS:
        assert len({x.modules[path].b.raw() for x in made}) == 1
    alphas = [adapter.config["alpha_pattern"]["h.0.q"] for adapter in made]
    assert len(set(alphas)) == 5
    for adapter, alpha in zip(made, alphas, strict=True):
        assert adapter.modules["h.0.q"].scale == alpha / 4
        assert adapter.config["lora_alpha"] == adapter.config["r"] == 4
    plain = apply(five, "hydraopt", heads=2, rank=4, scales=False)
    assert all(adapter.config["alpha_pattern"] == {} for adapter in plain)


def test_a_pattern_means_its_module_alone(
    make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    # "q" ends "sub.q": PEFT would match both with the shorter path.
    folders = [
        make_adapter(tmp_path / name, modules(i, i, ("q", "sub.q")))
        for i, name in enumerate(("x", "y"))
    ]
    made = apply(read_adapters(folders), "hydraopt", heads=1, rank=4, dtype="float32")
    for adapter in made:
        again = read_back(adapter, tmp_path / f"back-{adapter.name}")
        for path in ("q", "sub.q"):
            assert again.modules[path].scale == adapter.modules[path].scale
    assert made[0].modules["q"].scale != made[0].modules["sub.q"].scale


def test_default_weights_make_relative_errors_count_alike(five: list[Adapter]) -> None:
    once = apply(five, "hydraopt", heads=2, rank=2)
    same = apply(five, "hydraopt", heads=2, rank=2, weights=dict.fromkeys(KINDS, 7.0))
    plain = apply(five, "hydraopt", heads=2, rank=2, weights=squares(five))
    hashes = [[x.content_hash() for x in made] for made in (once, same, plain)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_method_is_told_of_the_scales_inside(
    make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_adapter(tmp_path / n, modules(0, 0), alpha=x) for n, x in (("x", 4), ("y", 36))]
    told: list[Any] = []

    def run(factors: Any, inner_scales: Any = None) -> Merged:
        told.append(inner_scales)
        return Merged(tuple(factors), (1.0,) * len(factors))

    apply(read_adapters(folders), Method("mine", run))
    assert told == [[1.0, 9.0]] * len(PATHS)


def test_convolutions_and_embeddings_keep_their_form(
    make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    folders = []
    for name in ("x", "y"):
        conv = {
            "base_model.model.conv.lora_A.weight": rng.standard_normal((2, 3, 3, 3)),
            "base_model.model.conv.lora_B.weight": rng.standard_normal((5, 2, 1, 1)),
            "base_model.model.embed.lora_embedding_A": rng.standard_normal((2, 11)),
            "base_model.model.embed.lora_embedding_B": rng.standard_normal((6, 2)),
        }
        extras = {key: value.astype(np.float32) for key, value in conv.items()}
        folders.append(
            make_adapter(
                tmp_path / name,
                {},
                extras=extras,
                r=2,
                lora_alpha=2,
                target_modules=["conv", "embed"],
            )
        )
    adapters = read_adapters(folders)
    made = apply(adapters, AVERAGE, dtype="float32")
    again = read_back(made[0], tmp_path)
    assert again.modules["conv"].a_shape == (4, 3, 3, 3)
    assert again.modules["conv"].b_shape == (5, 4, 1, 1)
    assert again.modules["embed"].kind == "embedding"
    for path in ("conv", "embed"):
        mean = (delta(adapters[0], path) + delta(adapters[1], path)) / 2
        assert apart(delta(again, path), mean) < 1e-5


def test_what_cannot_be_put_together_is_refused(
    make_adapter: Callable[..., Path], tmp_path: Path, five: list[Adapter]
) -> None:
    head = {"base_model.model.score.weight": np.ones((2, 3), np.float32)}
    extra = make_adapter(tmp_path / "head", modules(0, 0), extras=head)
    with raises(
        AdapterFormatError, adapter="head", got="base_model.model.score.weight", expected="low-rank"
    ):
        apply(read_adapters([extra]), AVERAGE)
    pissa = make_adapter(tmp_path / "pissa", modules(0, 0), init_lora_weights="pissa")
    with raises(AdapterFormatError, adapter="pissa", expected="low-rank"):
        apply(read_adapters([pissa]), AVERAGE)
    fused = make_adapter(
        tmp_path / "fused",
        {},
        extras={
            "base_model.model.qkv.lora_A.weight": np.ones((4, 6), np.float32),
            "base_model.model.qkv.lora_B.weight": np.ones((10, 2, 1), np.float32),
        },
        r=2,
        lora_alpha=2,
        enable_lora=[True, False, True],
    )
    with raises(AdapterFormatError, adapter="fused", got="qkv::0", expected="low-rank"):
        apply(read_adapters([fused]), AVERAGE)
    other = make_adapter(tmp_path / "other", {"h.0.q": (np.ones((7, 2)), np.ones((2, N)))})
    with raises(AlignmentError, got="org/tiny"):
        apply([*five, *read_adapters([other])], AVERAGE)
    big = make_adapter(tmp_path / "big", {"h.0.q": (np.full((4, 1), 1e9), np.full((1, 4), 1e9))})
    with raises(NumericalError, module="h.0.q"):
        apply(read_adapters([big]), AVERAGE)
    apply(read_adapters([big]), AVERAGE, dtype="float32")


def test_wrong_options_are_refused(five: list[Adapter]) -> None:
    bare = Method("bare", lambda factors: Merged(tuple(factors), (1.0,) * len(factors)))
    apply(five, bare)
    for adapters, method, options in (
        (five, "mean", {}),
        (five, AVERAGE, {"heads": 2}),
        (five, AVERAGE, {"dtype": "int8"}),
        ([], AVERAGE, {}),
        ([five[0], five[0]], AVERAGE, {}),
        (five, AVERAGE, {"weights": {"a": 1.0}}),
        (five, bare, {"weights": dict.fromkeys(KINDS, 1.0)}),
    ):
        with pytest.raises(UsageError):
            apply(adapters, method, **options)


@pytest.mark.parametrize("targets", [["q"], ["k"], r".*\.q", None])
def test_peft_is_told_of_every_module(
    targets: Any, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    # PEFT leaves modules out that target_modules does not find, and says nothing.
    folder = make_adapter(tmp_path / "x", modules(0, 0), target_modules=targets)
    (made,) = apply(read_adapters(folder), AVERAGE)
    assert made.config["target_modules"] == sorted(PATHS)


def test_a_pattern_means_one_module(make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    # A dot in a pattern is any character, so "h.0.q" means h_0.q as well.
    ranks = {"h.0.q": 2, "h_0.q": 3, "h.1.q": 4, "h.2.q": 4}
    pairs = {path: modules(0, 0, (path,), r)[path] for path, r in ranks.items()}
    exact = {f"^{re.escape(path)}": r for path, r in ranks.items()}
    folder = make_adapter(tmp_path / "x", pairs, rank_pattern=exact)
    (adapter,) = read_adapters(folder)
    (made,) = apply([adapter], AVERAGE)
    again = read_back(made, tmp_path / "back")
    assert {path: x.r for path, x in again.modules.items()} == ranks
    rule = ScaleRule.from_config(made.config, tmp_path)
    assert {path: rule.rank(path) for path in ranks} == ranks
    assert {path: rule.scale(path) for path in ranks} == pytest.approx(
        {path: x.scale for path, x in made.modules.items()}
    )
