"""Reading what PEFT wrote: adapter_config.json and adapter_model.safetensors or .bin."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from hydraopt.adapters.keys import PeftKey, extra_kind, parse, spell
from hydraopt.adapters.model import ExtraKind, Format, Layout, LowRankModule
from hydraopt.adapters.rawtensor import RawTensor, TensorFile, refuse
from hydraopt.adapters.scale import ScaleRule
from hydraopt.files.url import AnyPath
from hydraopt.notes import Note

__all__ = [
    "DORA",
    "Halves",
    "Parsed",
    "both_of",
    "changed_base",
    "check_types",
    "halves_of",
    "read_peft",
]


@dataclass
class Parsed:
    """Result of a format's reader, from which the reader module makes an Adapter."""

    format: Format
    config: Mapping[str, Any]
    base_model: str | None = None
    modules: list[LowRankModule] = field(default_factory=list)
    extras: dict[str, ExtraKind] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


DORA: Final = Note("dora", "DoRA: the magnitudes are tensors beside the low-rank part")

# Initialisations that also change the base weights when PEFT attaches the adapter.
_CHANGES_BASE: Final = re.compile(r"pissa|olora|corda|loftq|lora_ga")

_KNOWN: Final = frozenset(
    {
        "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping",
        "base_model_name_or_path", "bias", "corda_config", "enable_lora",
        "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
        "inference_mode", "init_lora_weights", "kasa_config", "layer_replication",
        "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
        "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "merge_weights",
        "modules_to_save", "monteclora_config", "peft_type", "peft_version",
        "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
        "target_modules", "target_parameters", "task_type", "trainable_token_indices",
        "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
    }
)  # fmt: skip


def read_peft(file: TensorFile, config: Mapping[str, Any], config_file: AnyPath) -> Parsed:
    """Return the modules, extras and notes of a PEFT LoRA.

    The config is that of a LoRA; others are read by hydraopt.adapters.tunerfiles. Raises
    AdapterFormatError for variants that are not B @ A, and where file and config disagree.
    """
    parsed = Parsed("peft", config)
    check_types(config, config_file)
    patterns = config.get("rank_pattern") or config.get("alpha_pattern")
    if config.get("target_parameters") and patterns:
        refuse(
            "target_parameters together with rank_pattern or alpha_pattern is not supported",
            config_file,
            do="Tensor names do not tell which parameter a pattern means; use one rank and alpha",
        )
    rule = ScaleRule.from_config(config, config_file)
    base = config.get("base_model_name_or_path")
    parsed.base_model = base if isinstance(base, str) and base else None
    pairs = pair_up(file)
    for key, pair in pairs.items():
        for module in _modules_of(key, *pair, rule, config, file.path):
            parsed.modules.append(module)
            for half in ("A", "B"):
                parsed.keys[module.path, half] = spell(key.inner, half, key.embedding)
    used = {tensor.name for pair in pairs.values() for tensor in pair}
    saved = config.get("modules_to_save") or ()
    saved = [saved] if isinstance(saved, str) else saved
    for name in file:
        if name not in used:
            kind = extra_kind(name, config.get("bias") or "none", saved)
            if kind is None:
                refuse(
                    f"tensor {name!r} belongs to a LoRA variant that is not understood",
                    file.path,
                    do="Merge this adapter and extract a plain LoRA, or leave it out",
                )
            if kind == "lora_bias" and name.removesuffix("bias") + "weight" not in used:
                refuse(
                    "a bias of lora_B without its lora_B",
                    file.path,
                    got=name,
                    do="The file is incomplete; save the adapter again",
                )
            parsed.extras[name] = kind
    parsed.notes += _notes(parsed, config, pairs)
    return parsed


K = TypeVar("K", bound=Hashable)
Halves = dict[K, dict[str, RawTensor]]
"""The tensors "A" and "B" of each pair."""


def halves_of(file: TensorFile, split: Callable[[str], tuple[K, str] | None]) -> Halves[K]:
    """Return the halves of a file's low-rank pairs.

    split: function from a tensor's name to its pair and "A" or "B"; None for other tensors.

    Raises AdapterFormatError for two adapters in one file.
    """
    halves: Halves[K] = {}
    for name, tensor in file.items():
        found = split(name)
        if found is None:
            continue
        pair, half = found
        sides = halves.setdefault(pair, {})
        if half in sides:
            refuse(
                f"two tensors claim to be {half} of one module",
                file.path,
                module=pair[0] if isinstance(pair, tuple) else pair,
                got=f"{sides[half].name!r} and {name!r}",
                do="The file holds several adapters; save each on its own",
            )
        sides[half] = tensor
    return halves


def both_of(
    path: str, sides: Mapping[str, RawTensor], file: AnyPath
) -> tuple[RawTensor, RawTensor]:
    """Return (A, B) of a module; raises AdapterFormatError if one of them is missing."""
    if len(sides) < 2:
        have, tensor = next(iter(sides.items()))
        missing = "B" if have == "A" else "A"
        refuse(
            f"module has no {missing} to its {have}",
            file,
            module=path,
            got=tensor.name,
            expected=f"also its lora_{missing}",
            do="The file is incomplete; save the adapter again",
        )
    return sides["A"], sides["B"]


def pair_up(file: TensorFile) -> dict[PeftKey, tuple[RawTensor, RawTensor]]:
    """Return the (A, B) pairs of a file with PEFT's tensor names, by the parsed name of A.

    Raises AdapterFormatError for half a pair or two adapters in one file.
    """
    keys = {name: key for name in file if (key := parse(name)) is not None}

    def split(name: str) -> tuple[tuple[str, bool], str] | None:
        key = keys.get(name)
        return None if key is None else ((key.inner, key.embedding), key.half)

    pairs = (both_of(x, sides, file.path) for (x, _), sides in halves_of(file, split).items())
    return {keys[pair[0].name]: pair for pair in pairs}


def _modules_of(
    key: PeftKey,
    a: RawTensor,
    b: RawTensor,
    rule: ScaleRule,
    config: Mapping[str, Any],
    file: AnyPath,
) -> list[LowRankModule]:
    """Return the modules stored in one pair: one, or one per group of a fused or grouped layer."""
    path, rank = key.path, rule.rank(key.settings_path)
    rows, inner = a.shape[0] if a.shape else 0, b.shape[1] if len(b.shape) > 1 else 0
    fused = len(a.shape) == 2 and len(b.shape) == 3 and b.shape[2] == 1
    conv = len(a.shape) > 2 and len(a.shape) == len(b.shape) and set(b.shape[2:]) == {1}
    matrices = len(a.shape) == len(b.shape) == 2
    if 0 in a.shape + b.shape or not (fused or conv or matrices):
        _refuse_shapes("the shapes of A and B are not those of a LoRA", path, a, b, file)

    layout: Layout = "plain"
    groups, stored_rank = 1, rows
    if fused:
        layout, groups, stored_rank = "rows", rows // inner, inner
    elif conv and rows != inner:
        layout, groups = "rows", rows // inner
    elif matrices and rows != rank and rows % rank == 0 and _is_expert_pair(key, config):
        layout, groups, stored_rank = "experts", rows // rank, rank
    if rows != inner * (groups if layout == "rows" else 1) or (
        layout == "rows" and b.shape[0] % groups
    ):
        _refuse_shapes("the inner dimensions of A and B differ", path, a, b, file)
    if stored_rank != rank:
        refuse(
            "rank of the stored tensors is not the rank in adapter_config.json",
            file,
            module=path,
            got=f"A {a.shape}, B {b.shape}",
            expected=f"rank {rank} (r, rank_pattern)",
            do="File and config belong to different adapters, or r or rank_pattern was edited",
        )
    n = math.prod(a.shape[1:])
    m = b.shape[0] // groups if layout == "rows" else b.shape[0]
    positions = _enabled(config, groups, path, file) if fused else list(range(groups))
    return [
        LowRankModule(
            path=path if groups == 1 and not fused else f"{path}::{position}",
            kind="embedding" if key.embedding else "conv" if conv else "linear",
            m=m,
            n=n,
            r=rows // groups,
            scale=rule.scale(key.settings_path),
            a=a,
            b=b,
            layout=layout,
            group=group,
            groups=groups,
        )
        for group, position in enumerate(positions)
    ]


def _is_expert_pair(key: PeftKey, config: Mapping[str, Any]) -> bool:
    """Return whether the pair may wrap a parameter that stacks experts (``target_parameters``)."""
    targets = config.get("target_parameters") or ()
    owners = (str(target).rpartition(".")[0] for target in targets)
    return any(f".{key.settings_path}".endswith(f".{owner}") for owner in owners)


def _enabled(config: Mapping[str, Any], groups: int, path: str, file: AnyPath) -> list[int]:
    """Return the slots of a fused projection that the groups use, by ``enable_lora``."""
    enable = config.get("enable_lora")
    if not isinstance(enable, list) or sum(map(bool, enable)) != groups:
        refuse(
            "the parts of a fused projection cannot be told apart",
            file,
            module=path,
            got=f"{groups} groups, enable_lora {enable}",
            expected="a list enable_lora that is true for each group",
            do="Add enable_lora to adapter_config.json, such as [true, false, true] for q and v",
        )
    return [position for position, on in enumerate(enable) if on]


# What readers of these settings count on; null is as if the setting were not there.
_TYPES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "modules_to_save", "target_parameters",
         "layers_pattern"),
        ("a text or a list of texts", lambda x: isinstance(x, str) or _all(x, str)),
    ),
    "layers_to_transform": ("a number or a list", lambda x: type(x) is int or _all(x, int)),
    "bias": ("a text", lambda x: isinstance(x, str)),
    "init_lora_weights": ("a text or true", lambda x: isinstance(x, str | bool)),
    "enable_lora": ("a list of true and false", lambda x: _all(x, bool)),
    **dict.fromkeys(("use_rslora", "use_dora"), ("true or false", lambda x: isinstance(x, bool))),
}  # fmt: skip


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(x, kind) for x in value)


def check_types(config: Mapping[str, Any], file: AnyPath) -> None:
    """Raise AdapterFormatError if a setting that readers count on is of another type."""
    for setting, (expected, fine) in _TYPES.items():
        value = config.get(setting)
        if value is not None and not fine(value):
            refuse(
                f"setting {setting} is of another type",
                file,
                got=repr(value)[:80],
                expected=expected,
                do="Correct adapter_config.json",
            )


def changed_base(config: Mapping[str, Any]) -> str | None:
    """Return the initialisation, where it also changes the base when PEFT attaches the adapter."""
    how = config.get("init_lora_weights")
    return how if isinstance(how, str) and _CHANGES_BASE.search(how) else None


def _notes(
    parsed: Parsed, config: Mapping[str, Any], pairs: Mapping[PeftKey, Any]
) -> Iterator[Note]:
    if "peft_type" not in config:
        yield Note("no_peft_type", "adapter_config.json states no peft_type; read as LORA")
    if any(not key.prefixed for key in pairs):
        yield Note("no_prefix", 'tensor names lack PEFT\'s prefix "base_model.model."')
    named = sorted({key.adapter for key in pairs if key.adapter})
    if named:
        text = f"tensor names carry the adapter name {', '.join(named)}"
        yield Note("adapter_name_in_keys", text)
    if "dora_magnitude" in parsed.extras.values():
        yield DORA
    alphas = sorted(key for key in parsed.extras if key.endswith(".alpha"))
    if alphas:
        text = (
            f"{len(alphas)} alphas in the file, {alphas[0]!r} for one, scale nothing: the config "
            "states the scale"
        )
        yield Note("alpha_ignored", text, alphas[0])
    initialisation = changed_base(config)
    if initialisation is not None:
        text = (
            f"init_lora_weights={initialisation}: only right on a base that was changed as PEFT "
            "changes it when it attaches this adapter"
        )
        yield Note("changed_base", text)
    if config.get("alora_invocation_tokens"):
        yield Note(
            "alora", "aLoRA: acts only after its invocation tokens, which stay in the config"
        )
    unknown = sorted(key for key, value in config.items() if value and key not in _KNOWN)
    if unknown:
        text = f"settings that are not understood are carried along: {', '.join(unknown)}"
        yield Note("unknown_settings", text, ", ".join(unknown))


def _refuse_shapes(what: str, path: str, a: RawTensor, b: RawTensor, file: AnyPath) -> None:
    refuse(
        what,
        file,
        module=path,
        got=f"A {a.shape}, B {b.shape}",
        expected="A (r, n) and B (m, r), or the convolution's A (r, in, kh, kw) and B (m, r, 1, 1)",
        do="The file is damaged or was edited; save the adapter again",
    )
