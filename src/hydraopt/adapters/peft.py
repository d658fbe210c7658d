"""Read what PEFT wrote: the grammar of tensor names, adapter_config.json, the weights.

    base_model.model. PATH . ROLE [. ADAPTER] [.weight]

ROLE is lora_A, lora_B, lora_embedding_A, lora_embedding_B or lora_magnitude_vector; ADAPTER
("default") was left inside by training loops that saved the state dict themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeVar

from hydraopt.adapters.model import ExtraKind, Format, Layout, LowRankModule
from hydraopt.adapters.settings import ScaleRule
from hydraopt.adapters.tensors import RawTensor, TensorFile, refuse
from hydraopt.files import AnyPath
from hydraopt.notes import Note

PREFIX: Final = "base_model.model."

Half = Literal["A", "B"]

# Wrappers of torch.compile, FSDP and DDP that end up in saved names.
_WRAPPERS: Final = re.compile(r"(?:^module\.|\b_orig_mod\.|\b_fsdp_wrapped_module\.)")
_MATRIX: Final = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_EMBEDDING: Final = re.compile(r"(.+)\.lora_embedding_([AB])(?:\.([^.]+))?")
# What PEFT's wrapper of a module to save puts in a name: what was trained, then the adapter's name;
# and what was there before.
_SAVED: Final = ".modules_to_save."
_BEFORE: Final = ".original_module."
_PARTS: Final = (".lora_", ".trainable_tokens_delta.")
_JOINED: Final = re.compile(r"(?P<path>[^.]+)_lora_(?P<half>down|up)\.weight")
# An adapter's own name ("default") inside a tensor's, as training loops leave it that save the
# model's state themselves.
_KEPT: Final = re.compile(r"\.modules_to_save\.[^.]+\.")
_NAMED: Final = (
    (re.compile(r"\.lora_magnitude_vector\..+$"), ".lora_magnitude_vector"),
    (re.compile(r"\.lora_B\.[^.]+\.bias$"), ".lora_B.bias"),
    (re.compile(r"\.trainable_tokens_delta\.[^.]+$"), ".trainable_tokens_delta"),
)
_UNKNOWN: Final = re.compile(r"\.(?:lora_(?!magnitude_vector)\w+|vera_\w+|ranknum)\b")


class PeftKey(NamedTuple):
    """Parsed tensor name of one half of a low-rank pair.

    inner: the path as the name has it, which may pass through "base_layer" of nested wrappers.
    half, embedding: which tensor it is.  adapter: adapter name inside, or None.
    prefixed: whether the name started with "base_model.model.".
    """

    inner: str
    half: Half
    embedding: bool
    adapter: str | None
    prefixed: bool

    @property
    def path(self) -> str:
        """Module path in the base model.

        A wrapper inside a wrapper shows as "base_layer" in the middle (out_proj of a multi-head
        attention) and is dropped; at the end it tells apart two pairs on one module and stays.
        """
        return self.inner.replace(".base_layer.", ".")

    @property
    def settings_path(self) -> str:
        """Path that PEFT matches rank and alpha patterns with: the outermost wrapper's."""
        return self.inner.split(".base_layer")[0]


def joined_half(key: str) -> re.Match[str] | None:
    """Match half of a pair as some trainers write kohya's names, PATH_lora_down.weight.

    The path, group ``path``, has no dots; group ``half`` is "down" or "up".
    """
    return _JOINED.fullmatch(key)


def parse(key: str) -> PeftKey | None:
    """Take a tensor name apart; None if it is not half of a low-rank pair."""
    plain = _WRAPPERS.sub("", key)
    prefixed = plain.startswith(PREFIX)
    plain = plain.removeprefix(PREFIX)
    for pattern, embedding in ((_MATRIX, False), (_EMBEDDING, True)):
        match = pattern.fullmatch(plain)
        if match:
            half: Half = "A" if match[2] == "A" else "B"
            return PeftKey(match[1], half, embedding, match[3], prefixed)
    return None


def spell(inner: str, half: Half, embedding: bool = False) -> str:
    """Return the name PEFT gives (and loads) half of a pair; inverse of :func:`parse`."""
    return f"{PREFIX}{inner}." + (f"lora_embedding_{half}" if embedding else f"lora_{half}.weight")


def peft_name(key: str, named: bool) -> str:
    """Return the name PEFT gives to a tensor that is not half of a pair.

    named: whether the word after "modules_to_save" is an adapter's name; see :func:`names_adapter`.
    """
    plain = _WRAPPERS.sub("", key)
    if not plain.startswith("base_model."):
        plain = PREFIX + plain
    for pattern, replacement in _NAMED:
        plain = pattern.sub(replacement, plain)
    return _KEPT.sub(".", plain) if named else plain


def names_adapter(keys: Collection[str]) -> bool:
    """Return whether the word after PEFT's wrapper of a module to save is an adapter's name.

    Otherwise it is a part of the module. It is a name if all of these keys have the same word there
    with more after it, no other tensor that is kept whole contains it, and no tensor of the
    original module is present (``bias="all"`` saves copies beside the original under their own
    names).
    """
    words = _words(keys)
    if len(words) != 1 or words == {""}:
        return False
    part, apart = f".{words.pop()}.", (*_PARTS, _SAVED)
    others = [key for key in keys if not any(x in key for x in apart)]
    return not any(part in key or _BEFORE in key for key in others)


def _words(keys: Collection[str]) -> set[str]:
    """Return the words behind the wrapper's name of keys that have it, "" at the end of a key."""
    behind = [key.partition(_SAVED)[2].partition(".") for key in keys if _SAVED in key]
    return {word if dot else "" for word, dot, _ in behind}


def saved_names(keys: Collection[str]) -> dict[str, str]:
    """Return the path in the base model of each tensor that is kept whole, by key.

    Names lose what PEFT's wrapper of a module to save left inside. Keys of copies are left out: of
    a tensor that is there under its plain name, as ``bias="all"`` saves them, and of what the
    module was before.
    """
    names = {key: _WRAPPERS.sub("", key).removeprefix(PREFIX) for key in keys if _BEFORE not in key}
    plain = {name for name in names.values() if _SAVED not in name}
    named, one = names_adapter(keys), len(_words(keys)) == 1
    result = {}
    for key, name in names.items():
        bare = name.replace(_SAVED, ".")
        short = re.sub(rf"{re.escape(_SAVED)}[^.]+\.", ".", name) if one else bare
        if _SAVED not in name or not {bare, short} & plain:
            result[key] = short if named else bare
    return result


def extra_kind(key: str, bias: str, saved_modules: Collection[str]) -> ExtraKind | None:
    """Classify a tensor outside the pairs; None if it belongs to a variant that is not supported.

    bias: the setting "bias".  saved_modules: the setting "modules_to_save".
    """
    parts = key.split(".")
    if "lora_magnitude_vector" in parts:
        return "dora_magnitude"
    if re.search(r"\.lora_B(?:\.[^.]+)?\.bias$", key):
        return "lora_bias"
    if "trainable_tokens_delta" in parts:
        return "token_rows"
    if "lora_velora_embed" in parts:
        return "exact"  # VeLoRA's projection of gradients, without effect but in training
    if _UNKNOWN.search(f".{key}"):
        return None
    inside_saved = "modules_to_save" in parts or any(part in saved_modules for part in parts)
    return "bias" if bias != "none" and parts[-1] == "bias" and not inside_saved else "saved"


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

    The config is that of a LoRA; others are read by hydraopt.adapters.factors. Raises
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
