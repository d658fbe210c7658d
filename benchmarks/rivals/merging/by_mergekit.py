"""DELLA and Model Breadcrumbs, whose pruning is mergekit's.

mergekit is installed in a folder of its own. Only its ``sparsify`` is imported from there, which
needs torch alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.rivals.merging.by_peft import elected
from hydraopt.codec import Array, Factors, halved
from hydraopt.merging import Merged
from hydraopt.merging.hydra import check_shapes, rank_for, weights_for

__all__ = ["PLACE", "breadcrumbs", "della", "sparsify"]

_PACKAGE = "mergekit==0.1.5"
PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hydraopt-benchmarks"


@functools.cache
def sparsify() -> ModuleType:
    """Return ``mergekit.sparsify``; raises RuntimeError if mergekit cannot be installed."""
    file = PLACE / _PACKAGE / "mergekit" / "sparsify.py"
    if not file.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(PLACE / _PACKAGE), _PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{_PACKAGE} cannot be installed: {done.stderr.strip()[-300:]}")
    spec = importlib.util.spec_from_file_location("mergekit_sparsify", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def della(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.7,
    epsilon: float = 0.07,
    lam: float = 1.1,
    rank: int | None = None,
    seed: int = 0,
) -> Merged:
    """Drop entries by chance, the large ones of a row more rarely, and elect signs as TIES does.

    Deep et al., arXiv 2406.11617. The defaults are the example of the authors' code (drop rate
    0.3, window 0.14, lambda 1.1); the paper searches them on validation data.
    """
    import torch

    w = weights_for(weights, len(factors), 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"density": density, "epsilon": epsilon}
        norm = sparsify().RescaleNorm.l1  # mergekit's default for this method
        kept = _pruned(factors, sparsify().della_magprune, rescale_norm=norm, **options)
    return _cut(factors, lam * elected(kept, w, 1.0), rank)


def breadcrumbs(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    beta: float = 0.85,
    gamma: float = 0.993,
    lam: float = 0.3,
    rank: int | None = None,
) -> Merged:
    """Drop both the many small entries and the few largest, and sum, times ``lam``.

    Davari and Belilovsky, ECCV 2024, arXiv 2312.06795: of the entries in order of magnitude those
    from the share ``beta`` up to the share ``gamma`` stay. The authors' code starts its search at
    beta 0.85, gamma 0.994 and lam 0.2, near the defaults.
    """
    w = weights_for(weights, len(factors), 1.0)
    prune = sparsify().magnitude_outliers
    # Rounded, so that shares such as 0.9 - 0.6 do not lose an entry.
    shares = {"density": round(gamma - beta, 12), "gamma": round(1 - gamma, 12)}
    kept = _pruned(factors, prune, **shares)
    return _cut(factors, lam * sum(x * each for x, each in zip(w, kept, strict=True)), rank)


def _pruned(factors: Sequence[Factors], prune: Callable[..., Any], **options: Any) -> list[Array]:
    """Return the pruned dW's, (m, n) each."""
    import torch

    check_shapes(factors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            prune(torch.from_numpy((f.B @ f.A).astype(np.float32)), **options).numpy()
            for f in factors
        ]


def _cut(factors: Sequence[Factors], merged: Any, rank: int | None) -> Merged:
    """Return the best factors of ``rank``, by default the largest of the tasks."""
    u, s, vt = np.linalg.svd(np.asarray(merged, np.float64), full_matrices=False)
    keep = min(rank_for(rank, factors), s.size)
    return Merged.one_for_all(halved(u, s, vt, keep), len(factors))
