"""Reading what PEFT wrote for other tuners than LoRA; see hydraopt.adapters.tuners for the table.

AdaLoRA is low rank as it is: dW = alpha / (init_r + 1e-5) * B diag(E) A (PEFT, SVDLinear). LoHa and
LoKr are products of two matrices w1 and w2, alpha / r times, entry by entry or Kronecker's (PEFT,
``LoHaLayer``, ``LoKrLayer``); each that is stored as a pair is a module, with layout "factor".
All else is extras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from hydraopt.adapters.lycoris import read_product
from hydraopt.adapters.model import LowRankModule
from hydraopt.adapters.peft import PREFIX, Parsed, check_types, extra_kind, spell
from hydraopt.adapters.settings import ScaleRule
from hydraopt.adapters.tensors import RawTensor, TensorFile, refuse
from hydraopt.adapters.tuners import Tuner, owner_of, part_of, tuner_of
from hydraopt.files import AnyPath
from hydraopt.notes import Note

_DO: Final = "The file is incomplete or was edited; save the adapter again"
_WRAPPERS: Final = re.compile(r"(?:^module\.|\b_orig_mod\.|\b_fsdp_wrapped_module\.)")
_EPSILON: Final = 1e-5
"""Constant that PEFT adds to AdaLoRA's rank before dividing by it."""


Stems = Mapping[str, Mapping[str, RawTensor]]
"""Tensors of each module's tuner, by part; of a part with several tensors, the last."""


def read_tuner(file: TensorFile, config: Mapping[str, Any], config_file: AnyPath) -> Parsed:
    """Return the modules, extras and notes of an adapter of another tuner than LoRA.

    Raises AdapterFormatError for tuners that are unknown or refused, tensors of another one than
    the config names, modules of which a tensor is missing, and shapes or ranks that do not fit.
    """
    tuner = tuner_of(config, config_file)
    check_types(config, config_file)
    parsed = Parsed("peft", config)
    base = config.get("base_model_name_or_path")
    parsed.base_model = base if isinstance(base, str) and base else None
    stems = _sorted_out(file, config, tuner, parsed)
    if not stems:
        refuse(
            f"file holds no tensor of {tuner.name}",
            file.path,
            got=f"{len(file)} tensors such as {next(iter(file), '')!r}",
            expected=", ".join(tuner.parts),
            do="File and config belong to different adapters",
        )
    if tuner.name == "ADALORA":
        _adalora(stems, config, parsed, file.path, config_file)
    elif tuner.treatment == "factors":
        rule = factor_rule(config, config_file)
        for stem, held in stems.items():
            _product(stem, held, rule, parsed, file.path)
    parsed.notes.append(_note(tuner))
    return parsed


def _note(tuner: Tuner) -> Note:
    how = {
        "low rank": "its singular values are folded into A",
        "factors": "each low-rank factor of the product is a module",
    }.get(tuner.treatment, "its tensors are kept as tensors, not as low-rank products")
    return Note("tuner", f"{tuner.name}: {how}; it comes back as {tuner.name}")


def _sorted_out(file: TensorFile, config: Mapping[str, Any], tuner: Tuner, parsed: Parsed) -> Stems:
    """Return the tuner's own tensors by module; all are extras until a module takes them."""
    saved = config.get("modules_to_save") or ()
    saved = [saved] if isinstance(saved, str) else saved
    stems: dict[str, dict[str, RawTensor]] = {}
    for name, tensor in file.items():
        own = part_of(name, tuner)
        if own is not None:
            stem, part = own
            held = stems.setdefault(stem, {})
            if part in held and tuner.treatment != "tensors":
                refuse(
                    f"two tensors claim to be {part} of one module",
                    file.path,
                    module=stem,
                    got=f"{held[part].name!r} and {name!r}",
                    do="The file holds several adapters; save each on its own",
                )
            held[part] = tensor
            parsed.extras[name] = tuner.parts[part]
            continue
        owner = owner_of(name)
        kind = extra_kind(name, config.get("bias") or "none", saved)
        if owner is not None or kind not in ("bias", "saved", "token_rows"):
            refuse(
                f"tensor {name[:200]!r} is of another tuner than the config names",
                file.path,
                got=owner or "LORA",
                expected=tuner.name,
                do="File and config belong to different adapters, or the file holds several",
            )
        parsed.extras[name] = kind
    for stem, held in stems.items():
        for group in tuner.together:
            there = [part for part in group if part in held]
            if there and len(there) < len(group):
                refuse(
                    "a module lacks a tensor of its tuner",
                    file.path,
                    module=stem,
                    got=", ".join(there),
                    expected=f"also {', '.join(x for x in group if x not in there)}",
                    do=_DO,
                )
    return stems


def _inner(stem: str) -> str:
    """Return the module's path, possibly through "base_layer", of a tensor name's first parts."""
    return _WRAPPERS.sub("", stem).removeprefix(PREFIX)


def module_path(stem: str) -> str:
    """Return the path of the base model's module that a tensor name's first parts mean."""
    return _inner(stem).replace(".base_layer.", ".")


def _take(parsed: Parsed, module: LowRankModule, inner: str) -> None:
    parsed.modules.append(module)
    for tensor in (module.a, module.b, module.between):
        if tensor is not None:
            parsed.extras.pop(tensor.name, None)
    parsed.keys[module.path, "A"] = spell(inner, "A")
    parsed.keys[module.path, "B"] = spell(inner, "B")


def _adalora(
    stems: Stems, config: Mapping[str, Any], parsed: Parsed, weights: AnyPath, config_file: AnyPath
) -> None:
    plain = {"r": config.get("init_r"), "lora_alpha": config.get("lora_alpha")}
    rule = ScaleRule.from_config(plain, config_file)
    patterns = config.get("rank_pattern") or {}
    fine = isinstance(patterns, dict) and all(
        isinstance(x, list) and len(x) == rule.r and all(type(bit) is bool for bit in x)
        for x in patterns.values()
    )
    if not fine:
        refuse(
            "setting rank_pattern is missing or wrong",
            config_file,
            got=repr(patterns)[:80],
            expected=f"lists of {rule.r} times true or false, by lora_E",
            do="Correct adapter_config.json",
        )
    # PEFT divides by the rank that the adapter began with, whatever is left of it.
    scale = (rule.alpha if rule.alpha > 0 else rule.r) / (rule.r + _EPSILON)
    ranks = {re.sub(r"\.lora_E(?:\.[^.]+)?$", "", k): sum(x) for k, x in patterns.items()}
    for stem, held in stems.items():
        a, b, e = (held[part] for part in ("lora_A", "lora_B", "lora_E"))
        r = ranks.get(_inner(stem), rule.r)
        m, n = (b.shape or (0,))[0], (a.shape or (0,))[-1]
        if (a.shape, b.shape, e.shape) != ((r, n), (m, r), (r, 1)) or 0 in (m, n):
            refuse(
                "the shapes of an AdaLoRA's tensors do not fit",
                weights,
                module=stem,
                got=f"A {a.shape}, B {b.shape}, E {e.shape}",
                expected=f"A ({r}, n), B (m, {r}), E ({r}, 1), by init_r and rank_pattern",
                do=_DO,
            )
        if r == 0:
            # Nothing was left of this module; PEFT still wants its empty tensors.
            parsed.extras.update(dict.fromkeys((a.name, b.name, e.name), "exact"))
            continue
        module = LowRankModule(module_path(stem), "linear", m, n, r, scale, a, b, between=e)
        _take(parsed, module, _inner(stem))


def factor_rule(config: Mapping[str, Any], file: AnyPath) -> ScaleRule:
    """Return the ranks and scales of a LoHa or LoKr config; raises AdapterFormatError."""
    return ScaleRule.from_config({**config, "use_rslora": False}, file, "alpha")


def factor_stems(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the names of B and A of each factor, by its own, of a LoHa or LoKr config."""
    kind = {"LOHA": "hada", "LOKR": "lokr"}[str(config.get("peft_type"))]
    return {name: (f"{kind}_{name}_a", f"{kind}_{name}_b") for name in ("w1", "w2")}


def _product(
    stem: str, held: Mapping[str, RawTensor], rule: ScaleRule, parsed: Parsed, file: AnyPath
) -> None:
    inner = _inner(stem)
    rank, scale = rule.rank(inner), rule.scale(inner)
    product = read_product(file, module_path(stem), held, lambda _: scale, rank)
    for module in product.modules:
        _take(parsed, module, inner)
