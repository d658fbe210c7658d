"""Joint diagonalisation: two bases for all tasks, and a small matrix or a diagonal for each.

Brueel Gabrielsson et al., "Compress then Serve", ICML 2025, arXiv 2407.00066:
``dW_t ~ U S_t V^T``, S_t (c, c) full (JD-Full) or diagonal (JD-Diag). As in a public
implementation of both, U and V are found in turns: for JD-Full each is the best for the other, for
JD-Diag U, V and the diagonals are least-squares solutions for the other two. Here JD-Full starts
from the best basis of each side alone and JD-Diag from JD-Full instead of random numbers. Every
dW_t has norm 1 while the bases are sought, so that relative errors count alike. Clusters: each has
bases of its own; they start even and at random, and whole adapters move to the cluster whose bases
fit them best until none does, as in the paper. Stored in fp16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.rivals.base import (
    Compressor,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.rivals.registry import SetShape
from hydraopt.codec import Array, Factors

__all__ = ["clusters", "jd_diagonal", "jd_full", "joint_diagonal", "joint_full", "rows"]

_WIDTHS = (8, 16, 32, 64)
_TURNS = 10
_DIAGONAL_TURNS = 30
_QUICK_TURNS, _STARTS, _MOVES = 2, 3, 8  # where it is only asked whose bases fit


def joint_full(
    factors: Sequence[Factors], c: int, turns: int = _TURNS
) -> tuple[Array, Array, Array]:
    """Return U (m, c), V (n, c) with orthonormal columns and S (T, c, c).

    c is at most the span of the dW's. Each turn lowers ``sum_t |dW_t - U S_t V^T|^2``. Costs
    O(turns T (m + n) r c); (m, n) is never formed.
    """
    left = [f.B @ np.linalg.qr(f.A.T)[1].T for f in factors]
    U = _top(np.concatenate(left, axis=1), c)
    V = U
    for _ in range(turns):
        V = _top(np.concatenate([f.A.T @ (f.B.T @ U) for f in factors], axis=1), c)
        U = _top(np.concatenate([f.B @ (f.A @ V) for f in factors], axis=1), c)
    return U, V, np.stack([(U.T @ f.B) @ (f.A @ V) for f in factors])


def _top(columns: Array, c: int) -> Array:
    """Return the c strongest left singular vectors, or all that there are."""
    q, r = np.linalg.qr(columns) if columns.shape[0] > columns.shape[1] else (None, columns)
    top = np.linalg.eigh(r @ r.T)[1][:, ::-1][:, :c]
    return top if q is None else q @ top


def joint_diagonal(factors: Sequence[Factors], c: int) -> tuple[Array, Array, Array]:
    """Return U (m, c), V (n, c) and s (T, c) with ``dW_t ~ U diag(s_t) V^T``.

    They are found by alternating least squares.
    """
    U, V, S = joint_full(factors, c)
    # Where the bases are rotated to the mean's singular vectors, its matrix is diagonal.
    turn, _, back = np.linalg.svd(S.mean(axis=0))
    U, V = U @ turn[:, : U.shape[1]], V @ back[: V.shape[1]].T
    c = min(U.shape[1], V.shape[1])
    U, V = U[:, :c], V[:, :c]
    s = _diagonals(factors, U, V)
    for _ in range(_DIAGONAL_TURNS):
        gram = s.T @ s
        wanted = sum(f.B @ (f.A @ (V * x)) for f, x in zip(factors, s, strict=True))
        U = _solve(gram * (V.T @ V), wanted)
        wanted = sum(f.A.T @ (f.B.T @ (U * x)) for f, x in zip(factors, s, strict=True))
        V = _solve(gram * (U.T @ U), wanted)
        s = _diagonals(factors, U, V)
    # Columns of one size, the rest in s, so that fp16 holds them.
    lengths = (np.linalg.norm(x, axis=0) for x in (U, V))
    u, v = (np.where(x > 0, x, 1.0) for x in lengths)
    return U / u, V / v, s * u * v


def _solve(gram: Array, wanted: Any) -> Array:
    solved: Array = np.linalg.lstsq(gram, np.asarray(wanted).T, rcond=1e-12)[0].T
    return solved


def _diagonals(factors: Sequence[Factors], U: Array, V: Array) -> Array:
    wanted = np.stack([np.sum((U.T @ f.B) * (V.T @ f.A.T), axis=1) for f in factors])
    return _solve((U.T @ U) * (V.T @ V), wanted)


def clusters(tasks: Tasks, count: int, c: int) -> dict[str, int]:
    """Return which cluster each task is in.

    From even splits at random adapters move, in turns with the bases, to those that hold most of
    them; the split whose bases hold most in all counts.
    """
    names = list(tasks)
    by_module = [
        {t: double(own[path]) for t, own in enumerate(tasks.values()) if path in own}
        for path in sorted({path for own in tasks.values() for path in own})
    ]
    best, most = np.zeros(len(names), int), -np.inf
    for start in range(_STARTS if count > 1 else 0):
        nearest = np.random.default_rng(start).permutation(np.arange(len(names)) % count)
        for _ in range(_MOVES):
            held = sum((_held(own, nearest, count, c) for own in by_module), np.zeros(()))
            kept = float(held[np.arange(len(names)), nearest].sum())
            if kept > most:
                best, most = nearest, kept
            moved = held.argmax(axis=1)
            if (moved == nearest).all():
                break
            nearest = moved
    return dict(zip(names, best.tolist(), strict=True))


def _held(own: Mapping[int, Factors], nearest: NDArray[Any], count: int, c: int) -> Array:
    """Return the squared norm of each task's dW within the bases of each cluster, (T, count)."""
    found = np.zeros((len(nearest), count))
    for k in range(count):
        members = [_unit(f) for t, f in own.items() if nearest[t] == k]
        if members:
            U, V, _ = joint_full(members, c, _QUICK_TURNS)
            for t, f in own.items():
                found[t, k] = Factors(U.T @ f.B, f.A @ V).squared_norm()
    return found


def _unit(f: Factors) -> Factors:
    norm = float(np.sqrt(f.squared_norm()))
    return Factors(f.B / (norm or 1.0), f.A)


def _joint(method: str, c: int, count: int, diagonal: bool) -> Compressor:
    def write(tasks: Tasks, folder: Path) -> None:
        cluster = clusters(tasks, count, c)
        arrays: dict[str, list[NDArray[Any]]] = {f"task/{task}": [] for task in tasks}
        layout: dict[str, Any] = {"cluster": cluster, "modules": {}}
        for path in sorted({path for modules in tasks.values() for path in modules}):
            for k in sorted(set(cluster.values())):
                own = [t for t, modules in tasks.items() if cluster[t] == k and path in modules]
                if not own:
                    continue
                factors = [double(tasks[task][path]) for task in own]
                norms = [float(np.sqrt(f.squared_norm())) for f in factors]
                alike = [_unit(f) for f in factors]
                U, V, S = (joint_diagonal if diagonal else joint_full)(alike, c)
                layout["modules"].setdefault(path, {})[str(k)] = [
                    U.shape[0], V.shape[0], U.shape[1], V.shape[1], own
                ]  # fmt: skip
                arrays.setdefault(f"bases/{k}", []).extend([U.ravel(), V.ravel()])
                for task, x, norm in zip(own, S, norms, strict=True):
                    arrays[f"task/{task}"].append(norm * x.ravel())
        flat = {k: np.concatenate([np.zeros(0), *x]).astype(np.float16) for k, x in arrays.items()}
        save_file(flat, str(folder / "all.safetensors"))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        layout = read_layout(folder)
        tensors = load_file(str(folder / "all.safetensors"))
        k = layout["cluster"][task]
        bases, small = (tensors[x].astype(np.float32) for x in (f"bases/{k}", f"task/{task}"))
        found, at, own = {}, 0, 0
        for path, clusters in layout["modules"].items():
            if str(k) not in clusters:
                continue
            m, n, p, q, tasks = clusters[str(k)]
            U, V = bases[at : at + m * p].reshape(m, p), bases[at + m * p :][: n * q].reshape(n, q)
            at += m * p + n * q
            if task not in tasks:
                continue
            count = p if diagonal else p * q
            S = small[own : own + count]
            own += count
            left = U * S if diagonal else U @ S.reshape(p, q)
            found[path] = np.ascontiguousarray(left), np.ascontiguousarray(V.T)
        return found

    setting = f"c={c}" + (f" {count} clusters" if count > 1 else "")
    return Compressor(method, setting, write, read)


def jd_full(c: int, clusters: int = 1) -> Compressor:
    """Return JD-Full.

    c: columns of each basis, and side of each task's matrix.
    """
    return _joint("jd-full", c, clusters, diagonal=False)


def jd_diagonal(c: int, clusters: int = 1) -> Compressor:
    """Return JD-Diag.

    c: columns of each basis, and numbers of each task in a module.
    """
    return _joint("jd-diag", c, clusters, diagonal=True)


def rows(shape: SetShape) -> list[Compressor]:
    """Return JD-Full, JD-Full with four clusters from eight tasks on, and JD-Diag."""
    return [
        *(jd_full(c) for c in _WIDTHS),
        *(jd_full(c, 4) for c in _WIDTHS[1:3] if shape.tasks >= 8),
        *(jd_diagonal(c) for c in _WIDTHS[1:]),
    ]
