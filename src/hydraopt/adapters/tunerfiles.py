"""Reading what PEFT wrote for other tuners than LoRA; see hydraopt.adapters.tuners for the table.

AdaLoRA is low rank as it is: dW = alpha / (init_r + 1e-5) * B diag(E) A (PEFT, SVDLinear). LoHa and
LoKr are products of two matrices w1 and w2, alpha / r times, entry by entry or Kronecker's (PEFT,
``LoHaLayer``, ``LoKrLayer``); each that is stored as a pair is a module, with layout "factor".
All else is extras.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hydraopt.adapters.keys import PREFIX, extra_kind, spell
from hydraopt.adapters.model import LowRankModule, factor_path
from hydraopt.adapters.peft import Parsed, check_types
from hydraopt.adapters.rawtensor import RawTensor, TensorFile, refuse
from hydraopt.adapters.scale import ScaleRule
from hydraopt.adapters.tuners import Tuner, owner_of, part_of, tuner_of
from hydraopt.files.url import AnyPath
from hydraopt.notes import Note

__all__ = ["AdaLoraRule", "factor_rule", "factor_stems", "module_path", "read_tuner"]

_DO: Final = "The file is incomplete or was edited; save the adapter again"
_WRAPPERS: Final = re.compile(r"(?:^module\.|\b_orig_mod\.|\b_fsdp_wrapped_module\.)")
_FACTORS: Final = {
    "LOHA": (("w1", "hada_w1_a", "hada_w1_b"), ("w2", "hada_w2_a", "hada_w2_b")),
    "LOKR": (("w1", "lokr_w1_a", "lokr_w1_b"), ("w2", "lokr_w2_a", "lokr_w2_b")),
}
_EPSILON: Final = 1e-5
"""Constant that PEFT adds to AdaLoRA's rank before dividing by it."""


@dataclass
class _Stem:
    """Tensors of one module's tuner, by part; a part with several tensors is a list."""

    parts: dict[str, list[RawTensor]] = field(default_factory=dict)


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
        _adalora(stems, AdaLoraRule.of(config, config_file), parsed, file.path)
    elif tuner.treatment == "factors":
        _products(stems, tuner, factor_rule(config, config_file), parsed, file.path)
    parsed.notes.append(_note(tuner))
    return parsed


def _note(tuner: Tuner) -> Note:
    how = {
        "low rank": "its singular values are folded into A",
        "factors": "each low-rank factor of the product is a module",
    }.get(tuner.treatment, "its tensors are kept as tensors, not as low-rank products")
    return Note("tuner", f"{tuner.name}: {how}; it comes back as {tuner.name}")


def _sorted_out(
    file: TensorFile, config: Mapping[str, Any], tuner: Tuner, parsed: Parsed
) -> dict[str, _Stem]:
    """Return the tuner's own tensors by module; all are extras until a module takes them."""
    saved = config.get("modules_to_save") or ()
    saved = [saved] if isinstance(saved, str) else saved
    stems: dict[str, _Stem] = {}
    for name, tensor in file.items():
        own = part_of(name, tuner)
        if own is not None:
            stem, part = own
            stems.setdefault(stem, _Stem()).parts.setdefault(part, []).append(tensor)
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
            there = [part for part in group if part in held.parts]
            if there and len(there) < len(group):
                _missing(file.path, stem, there, (x for x in group if x not in there))
    return stems


def _missing(file: AnyPath, stem: str, there: Iterable[str], absent: Iterable[str]) -> None:
    refuse(
        "a module lacks a tensor of its tuner",
        file,
        module=stem,
        got=", ".join(there),
        expected=f"also {', '.join(absent)}",
        do=_DO,
    )


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


def _alone(stem: str, held: _Stem, file: AnyPath) -> dict[str, RawTensor]:
    """Return the tensors of a module by part, if there is one of each."""
    for part, tensors in held.parts.items():
        if len(tensors) > 1:
            refuse(
                f"two tensors claim to be {part} of one module",
                file,
                module=stem,
                got=f"{tensors[0].name!r} and {tensors[1].name!r}",
                do="The file holds several adapters; save each on its own",
            )
    return {part: tensors[0] for part, tensors in held.parts.items()}


# --- AdaLoRA ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaLoraRule:
    """init_r, lora_alpha and rank_pattern of an AdaLoRA config.

    ranks: what is left of each module that was cut, by path.  scale: of every module's product.
    """

    r: int
    scale: float
    ranks: Mapping[str, int]

    @classmethod
    def of(cls, config: Mapping[str, Any], file: AnyPath) -> AdaLoraRule:
        """Read the settings; raise AdapterFormatError for missing or invalid ones."""
        plain = {"r": config.get("init_r"), "lora_alpha": config.get("lora_alpha")}
        rule = ScaleRule.from_config(plain, file)
        patterns = config.get("rank_pattern") or {}
        fine = isinstance(patterns, dict) and all(
            isinstance(x, list) and len(x) == rule.r and all(type(bit) is bool for bit in x)
            for x in patterns.values()
        )
        if not fine:
            refuse(
                "setting rank_pattern is missing or wrong",
                file,
                got=repr(patterns)[:80],
                expected=f"lists of {rule.r} times true or false, by lora_E",
                do="Correct adapter_config.json",
            )
        # PEFT divides by the rank that the adapter began with, whatever is left of it.
        alpha = rule.alpha if rule.alpha > 0 else float(rule.r)
        ranks = {re.sub(r"\.lora_E(?:\.[^.]+)?$", "", k): sum(x) for k, x in patterns.items()}
        return cls(rule.r, alpha / (rule.r + _EPSILON), ranks)

    def rank(self, path: str) -> int:
        return self.ranks.get(path, self.r)


def _adalora(stems: Mapping[str, _Stem], rule: AdaLoraRule, parsed: Parsed, file: AnyPath) -> None:
    for stem, held in stems.items():
        tensors, parts = _alone(stem, held, file), ("lora_A", "lora_B", "lora_E")
        absent = [part for part in parts if part not in tensors]
        if absent:
            _missing(file, stem, tensors, absent)
        a, b, e = (tensors[part] for part in parts)
        inner = _inner(stem)
        r = rule.rank(inner)
        m, n = (b.shape or (0,))[0], (a.shape or (0,))[-1]
        if (a.shape, b.shape, e.shape) != ((r, n), (m, r), (r, 1)) or 0 in (m, n):
            refuse(
                "the shapes of an AdaLoRA's tensors do not fit",
                file,
                module=stem,
                got=f"A {a.shape}, B {b.shape}, E {e.shape}",
                expected=f"A ({r}, n), B (m, {r}), E ({r}, 1), by init_r and rank_pattern",
                do=_DO,
            )
        if r == 0:
            # Nothing was left of this module; PEFT still wants its empty tensors.
            parsed.extras.update(dict.fromkeys((a.name, b.name, e.name), "exact"))
            continue
        path = module_path(stem)
        module = LowRankModule(path, "linear", m, n, r, rule.scale, a, b, between=e)
        _take(parsed, module, inner)


# --- LoHa and LoKr ----------------------------------------------------------------------------


def factor_rule(config: Mapping[str, Any], file: AnyPath) -> ScaleRule:
    """Return the ranks and scales of a LoHa or LoKr config; raises AdapterFormatError."""
    return ScaleRule.from_config({**config, "use_rslora": False}, file, "alpha")


def factor_stems(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the names of B and A of each factor, by its own, of a LoHa or LoKr config."""
    return {name: (b, a) for name, b, a in _FACTORS[str(config.get("peft_type"))]}


def _products(
    stems: Mapping[str, _Stem], tuner: Tuner, rule: ScaleRule, parsed: Parsed, file: AnyPath
) -> None:
    for stem, held in stems.items():
        tensors, inner = _alone(stem, held, file), _inner(stem)
        _check_whole(stem, tensors, tuner, file)
        if any(part.rpartition("_")[2] in ("t1", "t2") for part in tensors):
            continue  # Tucker's form of a convolution: three tensors make a factor, not a pair
        scale = rule.scale(inner)
        path, shapes = module_path(stem), []
        for group, (_, left, right) in enumerate(_FACTORS[tuner.name]):
            if left not in tensors:
                continue
            b, a = tensors[left], tensors[right]
            r = rule.rank(inner)
            m, n = (b.shape or (0,))[0], (a.shape or (0,))[-1]
            if a.shape != (r, n) or b.shape != (m, r) or 0 in (m, n):
                refuse(
                    "the shapes of a factor do not fit",
                    file,
                    module=stem,
                    got=f"{left} {b.shape}, {right} {a.shape}",
                    expected=f"(m, {r}) and ({r}, n), by r and rank_pattern",
                    do=_DO,
                )
            own = factor_path(path, group, (m, n) if tuner.name == "LOKR" else None)
            module = LowRankModule(own, "linear", m, n, r, scale, a, b, "factor", group, 2)
            _take(parsed, module, inner)
            shapes.append((m, n))
            scale = 1.0
        if tuner.name == "LOHA" and len(set(shapes)) > 1:
            refuse("two factors of other shapes", file, module=stem, got=shapes, do=_DO)


def _check_whole(stem: str, tensors: Mapping[str, RawTensor], tuner: Tuner, file: AnyPath) -> None:
    """Check that each of the two factors is there, either whole or as a pair."""
    for _, left, right in _FACTORS[tuner.name]:
        whole = left.removesuffix("_a") in tensors
        pair = [part for part in (left, right) if part in tensors]
        if len(pair) == 1 or not (whole or pair):
            _missing(file, stem, tensors, (x for x in (left, right) if x not in tensors))
        if whole and pair:
            refuse(
                "a factor is stored whole and as a pair",
                file,
                module=stem,
                got=", ".join(sorted(tensors)),
                do=_DO,
            )
    cores = [x for x in ("hada_t1", "hada_t2") if tuner.name == "LOHA" and x not in tensors]
    if len(cores) == 1:
        _missing(file, stem, tensors, cores)
