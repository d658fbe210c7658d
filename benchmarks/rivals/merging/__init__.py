"""Merging methods of the literature, each a function of one module's factors.

PEFT's or mergekit's code runs where one of them has the method. benchmarks/rivals/README.md
has the source of each, and of its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.rivals.merging import aligned, by_mergekit, clustered
from benchmarks.rivals.merging.by_peft import peft_method
from hydraopt.merging import METHODS as OWN, Merged, Method

__all__ = ["METHODS"]

_FUNCTIONS: Final[Mapping[str, Callable[..., Merged]]] = {
    "average": peft_method("svd"),
    "task-arithmetic": peft_method("svd", mean=False, lam=0.4),
    "ties": peft_method("ties_svd", mean=False, density=0.2),
    "dare-linear": peft_method("dare_linear_svd", density=0.5),
    "dare-ties": peft_method("dare_ties_svd", mean=False, density=0.5),
    "magnitude": peft_method("magnitude_prune_svd", density=0.5),
    "della": by_mergekit.della,
    "breadcrumbs": by_mergekit.breadcrumbs,
    "knots-ties": aligned.knots_ties,
    "core-ties": aligned.core_ties,
    "tsv-m": aligned.tsv_m,
    "iso-c": aligned.iso_c,
    "lora-lego": clustered.lora_lego,
    "peft-linear": peft_method("linear"),
    "peft-ties": peft_method("ties", density=0.2),
    "peft-magnitude": peft_method("magnitude_prune", density=0.5),
    "peft-svd": peft_method("svd"),
    "k-merge": clustered.k_merge,
}

METHODS: Final[Mapping[str, Method]] = {
    **OWN,
    **{name: Method(name, run) for name, run in _FUNCTIONS.items()},
}
"""All methods that are compared, by name."""
