"""Correlate computable measures of an error with its harm: one row per task and damage.

    python -m benchmarks.quality measures SET --tasks TASKS [--rows 48]

Adapters of the set are damaged in many ways: white noise on one side, on few modules or on all;
truncated SVDs; scaled; merged to bundles by several methods and sizes. For every damage the loss of
recovery and the KL to the original on test rows are measured, and beside them every candidate of
``damage_measures.py``. The report has the rank correlation of each candidate with the loss of
recovery, on the half of the tasks that was used to choose and on the one that was held out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance
from benchmarks.quality.damage_measures import (
    candidates,
)
from benchmarks.quality.evidence import original_adapters, request_for
from benchmarks.quality.harness.looking import texts_of
from benchmarks.quality.sets import SETS
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.sensitivity import Activations, look
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.run import encode_task, run_task
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.linalg.svd import thin
from hydraopt.merging.merge import merge

Factors = dict[str, tuple[Any, Any]]

BUNDLES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("5%", {}),
    ("2%", {}),
    ("1%", {}),
    ("3%", {"forms": ["private"]}),
    ("3%", {"forms": ["shared-input"]}),
    ("3%", {"forms": ["shared-output"]}),
    ("3%", {"measure": "frobenius"}),
)


def damaged(original: Factors, seed: int) -> Iterator[tuple[str, Factors]]:
    """(name of the damage, damaged factors), the size of noise relative to each module's dW."""
    rng = np.random.default_rng(seed)
    parts = {path: thin(b.astype(float), a.astype(float)) for path, (b, a) in original.items()}

    def noisy(left: float, right: float, where: str = "") -> Factors:
        found = {}
        for path, x in parts.items():
            out, into = (left, right) if where in path else (0.0, 0.0)
            size = np.linalg.norm(x.s)
            u, v = x.U * x.s, x.V
            # Each side's noise moves dW by `out` or `into` times its norm.
            noise_u = rng.standard_normal(u.shape)
            noise_v = rng.standard_normal(v.shape) * (size / np.maximum(x.s, 1e-12))
            noise_u *= out * size / max(float(np.linalg.norm(noise_u)), 1e-12)
            noise_v *= into * size / max(float(np.linalg.norm(noise_v * x.s)), 1e-12)
            found[path] = (u + noise_u, (v + noise_v).T)
        return found

    for level in (0.15, 0.3, 0.6):
        yield f"noise out {level}", noisy(level, 0)
        yield f"noise in {level}", noisy(0, level)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield f"noise both 0.5 {name}", noisy(0.5, 0.5, name)
    layers = sorted({int(path.split(".layers.")[1].split(".")[0]) for path in original})
    third = len(layers) // 3
    for name, some in (("early", layers[:third]), ("late", layers[-third:])):
        inside = {path for path in original if int(path.split(".layers.")[1].split(".")[0]) in some}
        both = noisy(0.5, 0.5)
        yield (
            f"noise both 0.5 {name}",
            {path: both[path] if path in inside else original[path] for path in original},
        )
    for keep in (0.75, 0.5, 0.25):
        ranks = {path: max(1, round(keep * x.s.size)) for path, x in parts.items()}
        cut = {
            p: (x.U[:, : ranks[p]] * x.s[: ranks[p]], x.V[:, : ranks[p]].T)
            for p, x in parts.items()
        }
        yield f"svd {keep}", cut
    for factor in (0.9, 0.75, 0.5):
        yield f"scaled {factor}", {path: (factor * b, a) for path, (b, a) in original.items()}


def bundles(adapters: Any) -> dict[str, dict[str, Factors]]:
    """Factors of every task from the bundles of BUNDLES, by name of the damage."""
    found: dict[str, dict[str, Factors]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size, options in BUNDLES:
            path = Path(folder) / "x.hydra.safetensors"
            merge(adapters, path, size=size, **options)
            bundle = open_bundle(path)
            name = " ".join(["bundle", size, *(str(x) for x in options.values())])
            found[name] = {
                task: {p: (f.B, f.A) for p, f in bundle[task].factors().items()} for task in bundle
            }
    return found


def measure_set(set_name: str, tasks: Path, rows: int, keep: Any) -> None:
    adapters = original_adapters(set_name)
    request = request_for(set_name, tasks, rows, "bfloat16")
    others = bundles(adapters)
    # Two languages of every task, chosen by name so that the choice is none of ours.
    by_task: dict[str, list[Any]] = {}
    for adapter in adapters:
        by_task.setdefault(adapter.name.rpartition("-")[0], []).append(adapter)
    chosen = [adapter for group in by_task.values() for adapter in group[:2]]
    model, tokenizer = load_model(request.base)
    with products_of("bfloat16"):
        for number, adapter in enumerate(chosen):
            task, language, _ = named_task(adapter.name, adapter.source.parent, tasks)
            data = encode_task(
                read_task_file(tasks, task, language), tokenizer, rows, request.tokens
            )
            original: Factors = {p: x.factors() for p, x in adapter.modules.items()}
            sets: dict[str, Factors] = dict(damaged(original, seed=number))
            sets |= {name: made[adapter.name] for name, made in others.items()}
            scores = run_task(
                model,
                tokenizer,
                data,
                {"base": {}, "original": original, **sets},
                "original",
                write=False,
            )
            texts = {
                kind: texts_of(kind, model, tokenizer, adapter, tasks, seed=number)
                for kind in ("prompts", "self")
            }
            seen: dict[str, Activations] = {
                name: look(model, text, original) for name, text in texts.items()
            }
            base, own = (scores[name].loss_per_token for name in ("base", "original"))
            for name, factors in sets.items():
                keep(
                    {
                        "task": adapter.name,
                        "half": "chosen on" if number % 2 == 0 else "held out",
                        "damage": name,
                        "lost_recovery": (scores[name].loss_per_token - own) / (base - own),
                        "kl": scores[name].divergence_per_token,
                        **candidates(original, factors, seen),
                    }
                )
            print(f"{number + 1}/{len(chosen)} {adapter.name}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=48)
    args = parser.parse_args(arguments)
    out = QUALITY / f"{args.set}.measures.json"
    head = provenance(f"{args.set}: candidates for the measure of harm", seed=0)
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        values = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
        rows.append(values)
        out.write_text(
            json.dumps({**head, "rows_per_task": args.rows, "rows": rows}, indent=1) + "\n"
        )

    measure_set(args.set, args.tasks, args.rows, keep)
