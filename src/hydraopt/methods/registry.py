"""One row for each method: where it is from, what it claims, what may be relied on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.errors import UsageError, explain
from hydraopt.methods import entries, factorwise, gradient, hydra, lowrank
from hydraopt.methods.small import Merged

__all__ = ["METHODS", "Method", "method_named"]


@dataclass(frozen=True)
class Method:
    """A way to put the adapters of one module together.

    run: a pure function of the module's factors and keyword options. paper: arXiv identifier, or
    where else it is described. claim: what its authors say of it. rotation_invariant: the result
    depends on the dW's alone, not on how they were factored (B R^-1, R A with any invertible R).
    order_free: nor on the order of the tasks. neutral: options under which a lone adapter comes
    back unchanged; None if there are none.
    """

    name: str
    run: Callable[..., Merged]
    paper: str
    year: int
    claim: str
    rotation_invariant: bool
    order_free: bool = True
    neutral: Mapping[str, Any] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """Options and their default values, from the function itself."""
        found = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


_ROWS: Final = (
    Method("hydra", hydra.hydra, "2507.17706", 2025,
           "one shared A' and M heads: any point between one merged adapter and all of them; "
           "here by exact alternating steps", True, True, {}),
    Method("hydra-gradient", gradient.hydra_gradient, "2507.17706", 2025,
           "the same objective by gradient steps, as in the paper; 48 % less storage at 0.2 to "
           "1.8 % loss", True, False, None),
    Method("average", lowrank.average, "2203.05482", 2022,
           "the mean of models fine-tuned from one base is better than each", True, True, {}),
    Method("task-arithmetic", lowrank.task_arithmetic, "2212.04089", 2023,
           "adding task vectors adds what the tasks learned", True, True, {"lam": 1.0}),
    Method("ties", entries.ties, "2306.01708", 2023,
           "trimming and electing signs resolves interference between tasks", True, True,
           {"density": 1.0}),
    Method("dare-linear", entries.dare_linear, "2311.03099", 2024,
           "most entries of a task vector can be dropped at random if the rest is rescaled", True,
           False, {"density": 1.0}),
    Method("dare-ties", entries.dare_ties, "2311.03099", 2024,
           "random dropping, then TIES' election of signs", True, False, {"density": 1.0}),
    Method("magnitude", entries.magnitude, "1506.02626", 2015,
           "the largest entries carry what was learned; as PEFT's magnitude_prune_svd", True, True,
           {"density": 1.0}),
    Method("della", entries.della, "2406.11617", 2024,
           "dropping by magnitude and chance keeps more than either alone", True, False,
           {"density": 1.0}),
    Method("breadcrumbs", entries.breadcrumbs, "2312.06795", 2024,
           "both tails of the entries are noise or outliers; without them lam need not be tuned",
           True, True, {"beta": 0.0, "gamma": 1.0, "lam": 1.0}),
    Method("slerp", lowrank.slerp, "Shoemake, SIGGRAPH 1985", 1985,
           "going along the sphere keeps the length that a straight mean loses", True, False, {}),
    Method("knots-ties", lowrank.knots_ties, "2410.19735", 2025,
           "a common SVD aligns LoRAs, so that merging in its coordinates interferes less", True,
           True, {"density": 1.0}),
    Method("core-ta", lowrank.core_arithmetic, "2509.17786", 2025,
           "merging in a common core loses nothing and is fast", True, True, {"lam": 1.0}),
    Method("core-ties", lowrank.core_ties, "2509.17786", 2025,
           "merging in a common core is fast and better than in the full space", False, True,
           {"density": 1.0}),
    Method("tsv-m", lowrank.tsv_m, "2412.00081", 2025,
           "interference is overlap of the tasks' singular vectors; whitening removes it", True,
           True, {}),
    Method("iso-c", lowrank.iso_c, "2502.04959", 2025,
           "a flat spectrum of the sum lets no task dominate", True, True, None),
    Method("lora-lego", factorwise.lora_lego, "2409.16167", 2025,
           "rank-one units of all tasks can be clustered and put together anew", False, False, {}),
    Method("peft-linear", factorwise.peft_linear, "PEFT add_weighted_adapter", 2023,
           "A's and B's averaged apart", False, True, {}),
    Method("peft-ties", factorwise.peft_ties, "PEFT add_weighted_adapter", 2024,
           "TIES on A's and B's apart", False, True, {"density": 1.0}),
    Method("peft-magnitude", factorwise.peft_magnitude, "PEFT add_weighted_adapter", 2024,
           "magnitude pruning on A's and B's apart", False, True, {"density": 1.0}),
    Method("peft-cat", factorwise.peft_cat, "PEFT add_weighted_adapter", 2023,
           "the exact weighted sum, at the rank of all together", True, True, {}),
    Method("peft-svd", factorwise.peft_svd, "PEFT add_weighted_adapter", 2023,
           "the best adapter of one rank for the weighted sum", True, True, {}),
    Method("k-merge", factorwise.k_merge, "2510.13537", 2025,
           "a few clusters of similar adapters hold what arrives over time", False, False, {}),
)  # fmt: skip

METHODS: Final[Mapping[str, Method]] = {row.name: row for row in _ROWS}
"""All methods by name."""


def method_named(name: str) -> Method:
    """The row of that name; raises UsageError that lists the names."""
    if name not in METHODS:
        raise UsageError(explain("unknown method", got=name, expected=", ".join(METHODS)))
    return METHODS[name]
