"""Products whose factors are stored apart: LoHa, LoKr, and Tucker's form of a convolution."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np

from hydraopt.adapters.model import Adapter, is_entrywise
from hydraopt.adapters.tensors import RawTensor
from hydraopt.adapters.tunerfiles import factor_rule, module_path
from hydraopt.codec import Array

K = TypeVar("K")

_PART: Final = re.compile(
    r"(?P<stem>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)"
    r"|lora_(?:up|mid|down)(?=\.weight$))(?:\.weight)?"
)
_CORES: Final[Mapping[str, tuple[str, str]]] = {
    "hada_t1": ("hada_w1_a", "hada_w1_b"),
    "hada_t2": ("hada_w2_a", "hada_w2_b"),
    "lokr_t2": ("lokr_w2_a", "lokr_w2_b"),
    "lora_mid": ("lora_up", "lora_down"),
}


@dataclass(frozen=True)
class Held(Generic[K]):
    """Factor or tensor of an adapter's product.

    item: the caller's name of it; None for a tensor that is kept bit by bit.
    stem: path of the module.
    part: "hada_w1" for a low-rank factor, otherwise the tensor's name, such as "lokr_w1" or
        "lora_mid".
    shape: shape of the factor or tensor.
    energy: its squared norm.
    values: function that reads a tensor's numbers.
    """

    item: K | None
    stem: str
    part: str
    shape: tuple[int, ...]
    energy: float
    values: Callable[[], Array] | None = None


@dataclass(frozen=True)
class FactorProduct(Generic[K]):
    """FactorProduct of factors.

    items: holders of its factors, which are coded. energy: |dW|^2, the scale inside; of LoHa as if
    its factors were independent.
    """

    items: tuple[K, ...]
    energy: float


def factor_part(path: str, group: int) -> str:
    """Return the part that a module of layout "factor" is, by its path and group."""
    return f"{'hada' if is_entrywise(path) else 'lokr'}_w{group + 1}"


def part_of_product(key: str) -> tuple[str, str] | None:
    """Return (stem, part) of an extra that is a factor of a product, or a tensor of one."""
    match = _PART.fullmatch(key)
    return (module_path(match["stem"]), match["part"]) if match else None


def products(
    held: Iterable[Held[K]], scale_of: Callable[[str, int | None], float]
) -> list[FactorProduct[K]]:
    """Return the products of one adapter, whose factors are all among ``held``.

    scale_of: (module's path, rank of its core, None for none) to the scale of a product without a
    low-rank factor; that of others is in the first of these. Tensors that are no whole product, as
    of a plain LoRA, are left out.
    """
    stems: dict[str, dict[str, Held[K]]] = {}
    for x in held:
        stems.setdefault(x.stem, {})[x.part] = x
    made = []
    for stem, parts in stems.items():
        energy = _energy(parts)
        if energy is None:
            continue
        if all(x.values is not None for x in parts.values()):
            ranks = [x.shape[0] for name, x in parts.items() if name in _CORES]
            energy *= scale_of(stem, ranks[0] if ranks else None) ** 2
        items = tuple(x.item for x in parts.values() if x.item is not None and x.energy > 0)
        made.append(FactorProduct(items, energy))
    return made


def products_of_adapter(adapter: Adapter, norms: Mapping[str, float]) -> list[FactorProduct[str]]:
    """Return the products of an adapter; items are paths of modules and keys of tensors.

    norms: Frobenius norms of the modules' own products, by path, the scale inside; 0 if not given.
    """
    held = [
        Held(
            path,
            path.partition("::")[0],
            factor_part(path, module.group),
            (module.m, module.n),
            norms.get(path, 0.0) ** 2,
        )
        for path, module in adapter.modules.items()
        if module.layout == "factor"
    ]
    for key, tensor in adapter.extras.items():
        if (part := part_of_product(key)) is not None:
            energy = float(np.sum(tensor.float64() ** 2))
            held.append(Held(key, *part, tensor.shape, energy, tensor.float64))

    def scale_of(stem: str, rank: int | None) -> float:
        return kept_scale(adapter.config, stem, rank, adapter.extras.get(f"{stem}.alpha"))

    return products(held, scale_of)


def kept_scale(
    config: Mapping[str, Any], stem: str, rank: int | None, alpha: RawTensor | None
) -> float:
    """Return the scale of a product without low-rank factors.

    alpha: from a LyCORIS file; without meaning for two whole factors. PEFT's is in the config.
    """
    if config.get("peft_type") in ("LOHA", "LOKR"):
        return factor_rule(config, Path("adapter_config.json")).scale(stem)
    if alpha is None or rank is None:
        return 1.0
    return float(alpha.float64().reshape(-1)[0]) / rank or 1.0


def _energy(parts: Mapping[str, Held[Any]]) -> float | None:
    """Return |dW|^2 without the scale, or None for parts that are no product."""
    if "lora_mid" in parts:
        return _tucker_norm(parts, "lora_mid")
    kind = "lokr" if any(name.startswith("lokr") for name in parts) else "hada"
    factors = [_factor(parts, f"{kind}_w{number}") for number in (1, 2)]
    if None in factors:
        return None
    whole = prod(x for x in factors if x is not None)
    return whole if kind == "lokr" else whole / _numbers(parts)


def _factor(parts: Mapping[str, Held[Any]], name: str) -> float | None:
    """Return the squared norm of a factor: a pair or a whole tensor, or Tucker's of three."""
    if name in parts:
        return parts[name].energy
    return _tucker_norm(parts, name.replace("_w", "_t"))


def _tucker_norm(parts: Mapping[str, Held[Any]], name: str) -> float | None:
    """Return ``|sum_rs t_rs a_r b_s|^2`` for a core t (r, s, ...), a (r, m) and b (s, n)."""
    names = (name, *_CORES.get(name, ()))
    if len(names) < 3 or any(x not in parts for x in names):
        return None
    core, left, right = (parts[x].values for x in names)
    if core is None or left is None or right is None:
        return None
    t, a, b = core(), left(), right()
    t = t.reshape(*t.shape[:2], -1)
    a, b = a.reshape(a.shape[:2]), b.reshape(b.shape[:2])
    inner = a.T @ a if name == "lora_mid" else a @ a.T  # lora_up is (m, r)
    return float(np.sum(t * np.einsum("pr,rsk,sq->pqk", inner, t, b @ b.T, optimize=True)))


def _numbers(parts: Mapping[str, Held[Any]]) -> int:
    """Return the number of entries of a LoHa's dW."""
    if "hada_w1" in parts:
        return prod(parts["hada_w1"].shape)
    core, a, b = (parts[x].shape for x in ("hada_t1", *_CORES["hada_t1"]))
    return a[1] * b[1] * prod(core[2:])
