"""One row for each method: where it is from, what it claims, what may be relied on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.errors import UsageError, explain
from hydraopt.methods import entries, factorwise, gradient, hydra, lowrank
from hydraopt.methods.options import OPTIONS, check_option
from hydraopt.methods.small import Merged
from hydraopt.values import shown

__all__ = ["METHODS", "Method", "method_named", "solver_of"]

_READERS: Final[Mapping[str, Callable[[str], int | float | bool]]] = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": float,
}


@dataclass(frozen=True)
class Method:
    """A way to merge the adapters of one module.

    run: a pure function of the module's factors and keyword options.
    title: title of the paper.
    paper: its arXiv identifier, or another place where the method is described.
    claim: claim of its authors.
    rotation_invariant: whether the result depends on the dW's alone, not on their factors (B R^-1,
        R A with any invertible R).
    order_free: whether the result does not depend on the order of the tasks.
    neutral: options under which a single adapter is returned unchanged; None if there are none.
    """

    name: str
    run: Callable[..., Merged]
    title: str
    paper: str
    year: int
    claim: str
    rotation_invariant: bool
    order_free: bool = True
    neutral: Mapping[str, Any] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """Options and their default values, from the function itself."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}

    @property
    def weighs_errors(self) -> bool:
        """Return whether weights set the importance of a task's error, not its share of the sum."""
        return self.name.startswith("hydraopt")

    @property
    def settings(self) -> dict[str, Any]:
        """The defaults of those options that are single numbers or switches: what a command line
        can set. None is a default that depends on the tasks."""
        return {name: self.defaults[name] for name in self._kinds}

    @property
    def _kinds(self) -> dict[str, str]:
        """ "int", "float" or "bool" of each setting; ``block`` only says how memory is used."""
        kinds = {
            name: str(parameter.annotation).removesuffix(" | None")
            for name, parameter in inspect.signature(self.run).parameters.items()
            if name in self.defaults and name != "block"
        }
        return {name: kind for name, kind in kinds.items() if kind in ("int", "float", "bool")}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for options that the method does not have or that are out of range.

        What depends on the tasks, or on two options together, is left to the method.
        """
        defaults = self.defaults
        self._check_known(set(options), set(defaults) - {"weights"}, ", ".join(defaults))
        for name in sorted(options.keys() & OPTIONS.keys()):
            check_option(name, options[name], defaults[name])

    def read(self, option: str, text: str) -> int | float | bool:
        """Return the value of a setting written as text: "0.2", "4", "false". Raises UsageError for
        options that the method does not have and for texts that are no such value."""
        kinds = self._kinds
        self._check_known({option}, set(kinds), ", ".join(kinds))
        try:
            value = _READERS[kinds[option]](text)
        except (KeyError, ValueError):
            raise UsageError(
                explain(
                    f"cannot read {option} of {self.name}",
                    got=shown(text),
                    expected=OPTIONS[option].expected,
                )
            ) from None
        check_option(option, value, self.defaults[option])
        return value

    def _check_known(self, given: set[str], known: set[str], expected: str) -> None:
        unknown = sorted(given - known)
        if unknown:
            raise UsageError(
                explain(
                    f"{self.name} has no such option",
                    got=", ".join(unknown),
                    expected=expected or "none",
                )
            )


_ROWS: Final = (
    Method("hydraopt", hydra.hydra,
           "HydraOpt", "2507.17706", 2025,
           "one shared A' and M heads: any point between one merged adapter and all of them; "
           "here by exact alternating steps", True, True, {}),
    Method("hydraopt-gradient", gradient.hydra_gradient,
           "HydraOpt", "2507.17706", 2025,
           "the same objective by gradient steps, as in the paper; 48 % less storage at 0.2 to "
           "1.8 % loss", True, False, None),
    Method("average", lowrank.average,
           "Model soups", "2203.05482", 2022,
           "the mean of models fine-tuned from one base is better than each", True, True, {}),
    Method("task-arithmetic", lowrank.task_arithmetic,
           "Editing models with task arithmetic", "2212.04089", 2023,
           "adding task vectors adds what the tasks learned", True, True, {"lam": 1.0}),
    Method("ties", entries.ties,
           "TIES-Merging", "2306.01708", 2023,
           "trimming and electing signs resolves interference between tasks", True, True,
           {"density": 1.0}),
    Method("dare-linear", entries.dare_linear,
           "Language models are Super Mario", "2311.03099", 2024,
           "most entries of a task vector can be dropped at random if the rest is rescaled", True,
           False, {"density": 1.0}),
    Method("dare-ties", entries.dare_ties,
           "Language models are Super Mario", "2311.03099", 2024,
           "random dropping, then TIES' election of signs", True, False, {"density": 1.0}),
    Method("magnitude", entries.magnitude,
           "Learning both weights and connections", "1506.02626", 2015,
           "the largest entries carry what was learned; as PEFT's magnitude_prune_svd", True, True,
           {"density": 1.0}),
    Method("della", entries.della,
           "DELLA-Merging", "2406.11617", 2024,
           "dropping by magnitude and chance keeps more than either alone", True, False,
           {"density": 1.0, "lam": 1.0}),
    Method("breadcrumbs", entries.breadcrumbs,
           "Model Breadcrumbs", "2312.06795", 2024,
           "both tails of the entries are noise or outliers; without them lam need not be tuned",
           True, True, {"beta": 0.0, "gamma": 1.0, "lam": 1.0}),
    Method("slerp", lowrank.slerp,
           "Animating rotation with quaternion curves", "Shoemake, SIGGRAPH 1985", 1985,
           "going along the sphere keeps the length that a straight mean loses", True, False, {}),
    Method("knots-ties", lowrank.knots_ties,
           "Model merging with SVD to tie the Knots", "2410.19735", 2025,
           "a common SVD aligns LoRAs, so that merging in its coordinates interferes less", True,
           True, {"density": 1.0}),
    Method("core-ta", lowrank.core_arithmetic,
           "Low-rank merging in Core Space", "2509.17786", 2025,
           "merging in a common core loses nothing and is fast", True, True, {"lam": 1.0}),
    Method("core-ties", lowrank.core_ties,
           "Low-rank merging in Core Space", "2509.17786", 2025,
           "merging in a common core is fast and better than in the full space", False, True,
           {"density": 1.0}),
    Method("tsv-m", lowrank.tsv_m,
           "Task Singular Vectors", "2412.00081", 2025,
           "interference is overlap of the tasks' singular vectors; whitening removes it", True,
           True, {}),
    Method("iso-c", lowrank.iso_c,
           "No Task Left Behind", "2502.04959", 2025,
           "a flat spectrum of the sum lets no task dominate", True, True, None),
    Method("lora-lego", factorwise.lora_lego,
           "Merging LoRAs like playing LEGO", "2409.16167", 2025,
           "rank-one units of all tasks can be clustered and put together anew", False, False, {}),
    Method("peft-linear", factorwise.peft_linear,
           "PEFT", "PEFT add_weighted_adapter", 2023,
           "A's and B's averaged apart", False, True, {}),
    Method("peft-ties", factorwise.peft_ties,
           "PEFT", "PEFT add_weighted_adapter", 2024,
           "TIES on A's and B's apart", False, True, {"density": 1.0}),
    Method("peft-magnitude", factorwise.peft_magnitude,
           "PEFT", "PEFT add_weighted_adapter", 2024,
           "magnitude pruning on A's and B's apart", False, True, {"density": 1.0}),
    Method("peft-cat", factorwise.peft_cat,
           "PEFT", "PEFT add_weighted_adapter", 2023,
           "the exact weighted sum, at the rank of all together", True, True, {}),
    Method("peft-svd", factorwise.peft_svd,
           "PEFT", "PEFT add_weighted_adapter", 2023,
           "the best adapter of one rank for the weighted sum", True, True, {}),
    Method("k-merge", factorwise.k_merge,
           "K-Merge", "2510.13537", 2025,
           "a few clusters of similar adapters hold what arrives over time", False, False, {}),
)  # fmt: skip

METHODS: Final[Mapping[str, Method]] = {row.name: row for row in _ROWS}
"""All methods by name."""


def method_named(name: str) -> Method:
    """Return the row of that name; raises UsageError that lists the names."""
    if name not in METHODS:
        raise UsageError(explain("unknown method", got=name, expected=", ".join(METHODS)))
    return METHODS[name]


def solver_of(name: str, solver: str) -> Method:
    """Return the row of a method by one of its solvers, "exact" or "gradient"; raises UsageError
    where there is no choice. HydraOpt alone has one."""
    row = method_named(name)
    if solver not in ("exact", "gradient"):
        raise UsageError(explain("unknown solver", got=solver, expected="exact or gradient"))
    if f"{name}-gradient" not in METHODS:
        raise UsageError(explain(f"{name} has no choice of solvers", got=solver, do="Leave it out"))
    return row if solver == "exact" else METHODS[f"{name}-gradient"]
