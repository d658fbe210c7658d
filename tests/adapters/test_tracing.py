"""Starts: PEFT's own initial A is found after training, and nothing else is taken for one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import Adapter, read_adapter, start as start_module, traced
from hydraopt.adapters.start import SEARCHED, SEEDS, least_correlation
from hydraopt.codec import Drawn, Generator, cores
from tests.marks import slow

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")
    from transformers.pytorch_utils import Conv1D

N = 128
"""Inputs of most layers: with rank 8 a module has the 1,024 values that a search needs."""
Change = Callable[[str, Any], None]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(N, N)
        self.k_proj = torch.nn.Linear(N, 32)
        self.c_attn = Conv1D(3 * N, N)
        self.conv = torch.nn.Conv2d(N, 48, 3)
        self.down_proj = torch.nn.Linear(200, N)


class Model(torch.nn.Module):
    """Twelve blocks, so that their names sort in another order than they are defined in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(90, N)
        self.layers = torch.nn.ModuleList([Block() for _ in range(12)])
        self.middle = torch.nn.Embedding(70, N)
        self.last = torch.nn.Linear(N, 70)


def noise(share: float) -> Change:
    """Training: noise of this share of A's norm."""

    def change(name: str, values: Any) -> None:
        if "lora_A" in name:
            of = torch.Generator().manual_seed(len(name))
            values += share * values.std() * torch.randn(values.shape, generator=of)

    return change


def starts_of(*adapters: Adapter) -> list[dict[str, Drawn]]:
    """The initial A of the modules that are traced, by path."""
    return [
        {path: x.initial for path, x in adapter.modules.items() if x.initial is not None}
        for adapter in traced(adapters)
    ]


USUAL = noise(0.3)


def trained(
    folder: Path,
    seed: int = 42,
    change: Change = USUAL,
    *,
    before: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> tuple[Adapter, Mapping[str, np.ndarray]]:
    """An adapter that PEFT initialised, changed and saved, and A_0 by module."""
    settings = {"r": 8, "target_modules": ["q_proj", "k_proj"], **settings}
    model = Model()
    torch.manual_seed(seed)
    torch.rand(before, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, peft.LoraConfig(**settings))
        start = {
            name.removeprefix("base_model.model.").partition(".lora_A")[0]: x.detach().numpy()
            for name, x in model.state_dict().items()
            if "lora_A" in name
        }
        start = {path: x.reshape(len(x), -1).copy() for path, x in start.items()}
        with torch.no_grad():
            for name, x in model.named_parameters():
                if "lora_" in name:
                    change(name, x)
        model.to(dtype).save_pretrained(folder)
    return read_adapter(folder), start


def check_whole(adapter: Adapter, start: Mapping[str, np.ndarray], seed: int) -> None:
    """All modules are traced, to the very numbers that they started from."""
    [found] = starts_of(adapter)
    assert {x.start.seed for x in found.values()} == {seed}
    assert set(found) == set(start)
    for path, a in start.items():
        rows, n = a.shape
        assert found[path].rows == rows
        assert found[path].offset + a.size <= found[path].start.numbers
        initial = found[path].basis(n).vectors.T
        scale = np.linalg.norm(a) / np.linalg.norm(initial)
        np.testing.assert_allclose(scale * initial, a, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (42, {}),
        (0, {"before": 700_001}),
        (3407, {"target_modules": ["down_proj", "c_attn", "q_proj", "conv", "k_proj"]}),
        slow(42, {"target_modules": ["last", "conv"], "before": 1_999_999}),
        (42, {"r": 5, "rank_pattern": {"q_proj": 16}, "use_rslora": True}),
        slow(42, {"use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
        slow(42, {"lora_bias": True, "target_modules": ["q_proj", "down_proj"]}),
        slow(42, {"change": noise(1.5), "r": 16}),
        (42, {"dtype": torch.bfloat16}),
        slow(42, {"dtype": torch.float16}),
    ],
)
def test_a_start_is_found(tmp_path: Path, seed: int, settings: dict[str, Any]) -> None:
    check_whole(*trained(tmp_path, seed, **settings), seed)


def test_the_order_of_kohya_is_traced(save: Callable[..., Path]) -> None:
    """Its LoRAModule makes lora_down and lora_up, and then draws lora_down again."""
    torch.manual_seed(42)
    tensors = {}
    for i in range(8):
        for name, m, kernel in (("attn_to_q", 64, ()), ("ff_proj", 96, ()), ("conv", 48, (3, 3))):
            layer = torch.nn.Conv2d if kernel else torch.nn.Linear
            down = layer(N, 8, *kernel[:1], bias=False)
            up = layer(8, m, *kernel[:1] and (1,), bias=False)
            torch.nn.init.kaiming_uniform_(down.weight, a=5**0.5)
            USUAL("lora_A", down.weight.data)
            for part, values in (("lora_down", down.weight), ("lora_up", up.weight)):
                key = f"lora_unet_down_blocks_{i}_{name}.{part}.weight"
                tensors[key] = values.detach().numpy()
            tensors[f"lora_unet_down_blocks_{i}_{name}.alpha"] = np.array(8.0, np.float32)
    adapter = read_adapter(save("kohya", tensors, file="lora.safetensors"))
    assert adapter.format == "kohya"
    [start] = starts_of(adapter)
    assert set(start) == set(adapter.modules)
    assert len(start) == 24


def test_embeddings_between_are_left_out(tmp_path: Path) -> None:
    adapter, _ = trained(tmp_path, r=16, target_modules=["embed", "q_proj", "middle", "last"])
    [start] = starts_of(adapter)
    linear = {path for path, x in adapter.modules.items() if x.kind == "linear"}
    assert set(start) == linear == {"last", *(f"layers.{i}.q_proj" for i in range(12))}


def test_a_module_that_left_its_start_is_left_out(tmp_path: Path) -> None:
    def change(name: str, values: Any) -> None:
        noise(50.0 if ".5.k_proj" in name or ".0.k_proj" in name else 0.3)(name, values)

    adapter, _ = trained(tmp_path, change=change)
    [start] = starts_of(adapter)
    assert set(adapter.modules) - set(start) == {"layers.5.k_proj", "layers.0.k_proj"}


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    """Set the dtype that PyTorch draws numbers in."""
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_drawn_in_16_bits_are_traced(tmp_path: Path, default_dtype, dtype) -> None:
    default_dtype(dtype)
    adapter, start = trained(tmp_path, dtype=dtype)
    [found] = starts_of(adapter)
    assert set(found) == set(start)


@pytest.mark.slow
def test_other_starts_are_not_taken_for_one(tmp_path: Path, default_dtype) -> None:
    """Another seed, much noise, a normal distribution, float64; searched at once."""
    others = [
        trained(tmp_path / "seed", 43)[0],
        trained(tmp_path / "noise", 42, noise(20.0))[0],
        trained(tmp_path / "normal", 42, init_lora_weights="gaussian")[0],
    ]
    default_dtype(torch.float64)
    others.append(trained(tmp_path / "float64", 42)[0])
    assert starts_of(*others) == [{}] * 4


def test_adapters_of_one_start_are_searched_together(tmp_path: Path) -> None:
    both, _ = trained(tmp_path / "both", change=noise(0.5))
    one, _ = trained(tmp_path / "one", change=noise(0.2), target_modules=["q_proj"], r=16)
    again, start = trained(tmp_path / "again", change=noise(0.1))
    starts = starts_of(both, one, again)
    assert starts[0] == starts[2]
    assert set(starts[0]) == set(start)
    assert set(starts[1]) == set(one.modules)
    assert starts_of(again, both) == [starts[0]] * 2
    assert starts_of() == []


@pytest.mark.slow
def test_of_many_adapters_some_tell_the_seeds_of_all(tmp_path: Path, monkeypatch) -> None:
    unknown, _ = trained(tmp_path / "unknown", 77)
    one, start = trained(tmp_path / "one", 42)
    other, its = trained(tmp_path / "other", 42, target_modules=["k_proj"], r=32)
    elsewhere, _ = trained(tmp_path / "elsewhere", 0)
    monkeypatch.setattr(start_module, "LEAST_SEARCHED", 1)
    monkeypatch.setattr(start_module, "SHARE", 1 << 40)
    found = [set(x) for x in starts_of(one, unknown, elsewhere, other)]
    assert found == [set(start), set(), set(), set(its)]
    assert starts_of(unknown, one, other) == [{}, {}, {}]
    monkeypatch.setattr(start_module, "SHARE", one.numbers)  # as many as there are
    assert [bool(x) for x in starts_of(unknown, one, elsewhere)] == [False, True, True]


def test_the_stages_of_the_search_are_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    adapter, _ = trained(tmp_path, 0)
    traced([adapter], lambda _, done, total: seen.append((done, total)))
    searched = [done for done, _ in seen]
    assert searched == sorted(set(searched))
    assert 2 <= searched[-1] <= max(cores(), 2)
    assert {total for _, total in seen} == {len(SEEDS)}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["flat", "spike", "steep"])
def test_chance_does_not_reach_the_least_correlation(shape: str) -> None:
    """The largest correlation of a whole search is near what the bound allows for, and below."""
    from scipy.signal import oaconvolve

    count = 1024
    row = {
        "flat": np.random.default_rng(0).standard_normal(count),
        "spike": np.eye(1, count)[0],
        "steep": 0.99 ** np.arange(count),
    }[shape]
    numbers = Generator(7).numbers(0, SEARCHED).astype(np.float32) / np.float32(2**23)
    row = (row / np.linalg.norm(row)).astype(np.float32)
    found = oaconvolve(numbers, row[::-1], mode="valid").max() * np.sqrt(3 / count)
    assert found < 0.75 * least_correlation(count)
    assert least_correlation(4 * count) == pytest.approx(least_correlation(count) / 2)


@pytest.mark.slow
def test_hostile_sizes_and_numbers(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    drawn = Generator(42).numbers(0, 8 * 2048).reshape(8, 2048) / 2**23
    b = np.ones((4, 8))
    modules = {
        "a.0.zero": (b, np.zeros((8, N))),
        "a.1.nan": (b, np.full((8, N), np.nan)),
        "a.2.infinite": (b, np.full((8, N), np.inf)),
        "a.3.tall": (np.ones((2_000_000, 1)), np.ones((1, 1))),
        "a.4.huge": (b, 1e38 * drawn),
        "a.5.tiny": (b, 1e-39 * drawn),
        "a.6.long": (np.ones((4, 1)), np.ones((1, 5_000_000))),
    }
    every = read_adapter(make_adapter(tmp_path / "every", modules))
    bad = {path: x for path, x in modules.items() if path < "a.4" or path == "a.6.long"}
    starts = starts_of(every, read_adapter(make_adapter(tmp_path / "bad", bad)))
    assert {path: x.offset for path, x in starts[0].items()} == {"a.4.huge": 0}
    assert starts[1] == {}
