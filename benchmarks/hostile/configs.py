"""Make configs with types, sizes, texts and expressions that no reader expects."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from benchmarks.hostile.mutate import damage_json, flip_bits, swap_ranges, truncate

EXPRESSIONS = (
    "(a+)+X", "(a|aa)+[0-9]", r"([a-z_.0-9]|[a-z][a-z])+!", "(.*)*Z",
    "([a-z._0-9]+)+!", "(x+x+)+y", "(?:.|.)*$Q",
    "(", "[", "(?P<a>x)(?P=a)",
    "(?=q)", "(?<!v)_proj", r"\1", ".*" * 40 + "X", "a{1000000}", "((a{500}){500}){500}", "",
    r"model\.layers\.\d+\.self_attn\.(q|v)_proj", ".*q_proj", "q_proj|v_proj", "\x00", "(?i)Q_PROJ",
    "(.+)+(.+)+(.+)+$Z", "all-linear",
)  # fmt: skip
NUMBERS = (
    0, -1, 3, 10**18, 10**400, -(10**400), 1e308, 1e-320, math.nan, math.inf, -math.inf, 2**63, 0.5,
    True, False, 2**31,
)  # fmt: skip
TEXTS = ("", "\ud800", "a\udfffb", "\x1b[31mred", "x" * 100_000, "../../x", "q_proj", "\u202egnp")
SETTINGS = (
    "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "modules_to_save",
    "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters", "enable_lora",
    "bias", "use_rslora", "use_dora", "init_lora_weights", "peft_type", "base_model_name_or_path",
    "revision", "trainable_token_indices", "alora_invocation_tokens", "lora_parameters",
    "num_layers", "model", "fan_in_fan_out", "task_type", "lora_bias", "layer_replication",
    "hydraopt", "unknown",
)  # fmt: skip
DEEP = 3000


def odd_value(rng: random.Random) -> Any:
    """Return a value of any type, likely a wrong one."""
    kind = rng.randrange(9)
    if kind <= 1:
        return rng.choice(EXPRESSIONS)
    if kind <= 3:
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return [
            rng.choice([*EXPRESSIONS, *NUMBERS, *TEXTS, None, {}])
            for _ in range(rng.choice([0, 1, 3]))
        ]
    if kind == 6:
        return {rng.choice([*EXPRESSIONS, *TEXTS]): rng.choice([4, 8, *NUMBERS, "x", None])}
    if kind == 7:
        value: Any = "x"
        for _ in range(rng.choice([2, 50, DEEP])):
            value = [value]
        return value
    return rng.choice([None, {}, [], True])


def damage_settings(config: Any, rng: random.Random) -> Any:
    """Return the config with a few settings of odd values."""
    if not isinstance(config, dict):
        return odd_value(rng)
    changed = dict(config)
    for _ in range(rng.choice([1, 1, 2, 3])):
        known = [x for x in SETTINGS if x in changed] or list(SETTINGS)
        key = rng.choice(known if rng.random() < 0.7 else SETTINGS)
        changed[key] = odd_value(rng)
    if rng.random() < 0.1:
        changed["init_lora_weights"] = rng.choice(["pissa", "pissa_niter_4", "olora"])
    return changed


def text_of(value: Any) -> bytes:
    """Return JSON as Python writes it, with NaN and with numbers of any length."""
    import sys

    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 20_000


def damage_config(data: bytes, rng: random.Random) -> bytes:
    """Return another adapter_config.json: other values, or other bytes."""
    chance = rng.random()
    if chance < 0.15:
        return rng.choice([flip_bits, truncate, swap_ranges])(data, rng)
    if chance < 0.35:
        return text_of(damage_json(json.loads(data), rng))
    if chance < 0.4:
        return data[:1] + b'"lora_alpha": 1' + b"0" * rng.choice([400, 5000]) + b", " + data[1:]
    return text_of(damage_settings(json.loads(data), rng))
