"""The configs that are written, judged by PEFT's own functions for finding modules and patterns."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hydraopt.adapters import ranks_and_alphas, resolved_config, written_config
from hydraopt.adapters.settings import ends_with, exact_pattern, finds, path_parts, pattern_of

pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

PATHS = [
    "q", "h.0.q", "h.1.q", "h.10.q", "h_0.q", "hx0.q", "a.h.0.q", "h.0.qq", "layers.0.experts.1.w",
    "layers.1.experts.0.w", "a+b.q", "a(b.q", "a[0].q", "x.a+b.q", "h.0.q-lora",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_pattern_is_of_one_path_alone(path: str) -> None:
    for pattern in (pattern_of(path, PATHS), exact_pattern(path)):
        # A path that nothing matches comes back as its own key, so the pattern is spelled apart.
        assert [x for x in PATHS if get_pattern_key([f"({pattern})"], x) != x] == [path]


def test_a_pattern_is_the_path_where_that_is_enough() -> None:
    assert pattern_of("h.0.q", ["h.0.q", "h.1.q", "h.0.qq", "h.0"]) == "h.0.q"
    assert pattern_of("h.0.q", ["h.0.q", "a.h.0.q"]) == r"^h\.0\.q"
    # A dot matches anything: PEFT would give h_0.q the rank of h.0.q.
    assert pattern_of("h.0.q", ["h.0.q", "h_0.q"]) == r"^h\.0\.q"
    assert pattern_of("a+b.q", ["a+b.q"]) == r"^a\+b\.q"
    assert pattern_of("a(b.q", ["a(b.q"]) == r"^a\(b\.q"


@given(
    pattern=st.text("aé1_..", min_size=1, max_size=6),
    path=st.text("aé1_..\n-", max_size=9),
)
def test_paths_as_patterns_match_without_being_compiled(pattern: str, path: str) -> None:
    matched = ends_with(path, pattern)
    if matched is None:
        assert "\n" in path
    else:
        assert matched == bool(re.match(rf"(.*\.)?({pattern})$", path))


def test_other_expressions_are_compiled() -> None:
    for pattern in ("a+", "a|b", "^a", "(", "a" * (1 << 17)):
        assert path_parts(pattern) is None
        assert ends_with("a", pattern) is None


def test_peft_gives_each_path_its_rank_and_alpha() -> None:
    settings = {path: (1 + i % 4, 0.5 * i) for i, path in enumerate(PATHS)}
    config = ranks_and_alphas(settings, 2)
    for path, (rank, alpha) in settings.items():
        key = get_pattern_key(config.rank_pattern.keys(), path)
        assert config.rank_pattern.get(key, config.r) == rank
        key = get_pattern_key(config.alpha_pattern.keys(), path)
        assert config.alpha_pattern.get(key, config.lora_alpha) == alpha
    assert config.use_rslora is False


SETTINGS: list[dict[str, Any]] = [
    {"target_modules": ["q"]},
    {"target_modules": ["h.0.q", "w"]},
    {"target_modules": ["k"]},
    {"target_modules": r".*\.q"},
    {"target_modules": r"h\.\d\.q"},
    {"target_modules": "(?i).*Q"},
    {"target_modules": ["q"], "exclude_modules": ["h.1.q"]},
    {"target_modules": ["q"], "exclude_modules": r"h\..*"},
    {"target_modules": r".*q", "exclude_modules": ["q"]},
    {"target_modules": ["q", "w"], "layers_to_transform": 0},
    {"target_modules": ["q", "w"], "layers_to_transform": [1, 10]},
    {"target_modules": ["q", "w"], "layers_to_transform": []},
    {"target_modules": ["q", "w"], "layers_to_transform": [0], "layers_pattern": "layers"},
    {"target_modules": ["q"], "layers_to_transform": [0, 1], "layers_pattern": ["h", "layers"]},
    {"target_modules": r".*q", "layers_to_transform": [7]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_module_is_found_where_peft_finds_it(settings: dict[str, Any]) -> None:
    truth = SimpleNamespace(modules_to_save=None, target_parameters=None, **settings)
    for path in PATHS:
        wanted = check_target_module_exists(truth, path)
        # What PEFT answers for an excluded module is an object of its own, and false.
        assert finds(settings, path) is bool(wanted), path


@pytest.mark.parametrize("targets", [3, None, {}, "(", [3], ""])
def test_targets_that_peft_would_not_take_find_nothing(targets: Any) -> None:
    assert not finds({"target_modules": targets}, "h.0.q")
    assert finds({"target_modules": "all-linear"}, "h.0.q")


def written(config: dict[str, Any], paths: list[str], base: str | None) -> dict[str, Any]:
    return written_config(resolved_config(config, paths), paths, base)


def test_targets_that_miss_a_module_are_written_anew() -> None:
    config = {
        "target_modules": ["q"],
        "layers_to_transform": [0],
        "enable_lora": [True],
        "merge_weights": False,
        "hydraopt": {"format": "kohya"},
        "lora_dropout": 0.1,
    }
    kept = {"target_modules": ["q"], "layers_to_transform": [0], "lora_dropout": 0.1}
    assert written(config, ["m.h.0.q"], "org/base") == {
        **kept,
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
    }
    for missed in ("m.h.1.q", "m.h.0.v"):
        made = written(config, [missed, "m.h.0.q"], None)
        assert made["target_modules"] == sorted([missed, "m.h.0.q"])
        assert "layers_to_transform" not in made
        assert all(finds(made, path) for path in (missed, "m.h.0.q"))
    named = {"target_parameters": ["experts.w"], "base_model_name_or_path": "org/other"}
    assert written(named, ["h.0.experts"], "org/base") == {**named, "peft_type": "LORA"}


def test_an_adalora_written_as_lora_keeps_none_of_its_own_settings():
    ranks = {"h.0.q.lora_E": [True, False]}
    adalora = {"peft_type": "ADALORA", "init_r": 2, "rank_pattern": ranks, "target_modules": ["q"]}
    made = written(adalora, ["h.0.q"], None)
    assert made == {"peft_type": "LORA", "target_modules": ["q"]}


@pytest.mark.parametrize("pattern", ["(0)?h", "(h|){2}", "(x)?h", "(h)", r"(\d*)h"])
def test_a_group_in_layers_pattern_is_no_error(pattern: str) -> None:
    """The first group is the layer's number, and may be empty, missing or no number."""
    config = {"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": pattern}
    assert not finds(config, "h.0.q")


def test_a_layer_is_a_whole_number() -> None:
    config = {"target_modules": ["q"], "layers_to_transform": [0.0, False]}
    assert not finds(config, "h.0.q")
    assert finds({**config, "layers_to_transform": [0.0, 0]}, "x.h.0.q")
