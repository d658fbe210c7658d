"""Measure the bytes of a saved embedding with a hundred changed rows, with and without its base.

    python -m benchmarks.quality embedding

An adapter saves the base's own embedding with changed rows whole, as ``modules_to_save`` does. The
rows' changes are random, of the size of the rows; the low-rank part is one module.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, write_result
from hydraopt.adapters import read_adapter
from hydraopt.collection.opening import open_bundle, verify_bundle
from hydraopt.merging.merge import merge

ROWS = 100
ERROR = 0.2
_EMBEDDING = "model.embed_tokens.weight"
_MODULE = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def _embedding(name: str) -> np.ndarray:
    from zoo.bases import load_base

    model, _ = load_base(name)
    weights: np.ndarray = model.get_input_embeddings().weight.detach().float().numpy()
    return weights


def _write(folder: Path, base: np.ndarray, rng: np.random.Generator) -> tuple[Path, Path]:
    """Write the base model's weights and the adapter, and return their folders."""
    model, adapter = folder / "base", folder / "adapter"
    model.mkdir()
    adapter.mkdir()
    save_file({_EMBEDDING: base}, model / "model.safetensors")
    changed, width = base.copy(), base.shape[1]
    rows = rng.choice(len(base), ROWS, replace=False)
    changed[rows] += (base.std() * rng.standard_normal((ROWS, width))).astype(np.float32)
    tensors = {
        f"base_model.model.{_EMBEDDING}": changed,
        f"{_MODULE}A.weight": rng.standard_normal((8, width)).astype(np.float32),
        f"{_MODULE}B.weight": (0.01 * rng.standard_normal((width, 8))).astype(np.float32),
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    config["modules_to_save"] = ["embed_tokens"]
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return model, adapter


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    head = provenance("a saved embedding of which 100 rows changed", seed=args.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = _embedding(args.base)
        place = _write(Path(folder), weights, np.random.default_rng(args.seed))
        target = Path(folder) / "one.hydra.safetensors"
        for name, exact, base in (
            ("bit by bit", ["*"], None),
            ("coded", [], None),
            ("coded against the base", [], place[0]),
        ):
            result = merge([place[1]], target, max_error=ERROR, exact=exact, base=base)
            task = next(iter(open_bundle(target, base).values()))
            rows.append(
                {
                    "how": name,
                    "bytes": result.size,
                    "fp16_bytes": result.fp16_bytes,
                    "error": task.error,
                    "embedding_error": next(iter(task.tensor_errors.values()), 0.0),
                    "verified": verify_bundle(target, [read_adapter(place[1])], base).ok,
                }
            )
            print(rows[-1])
    shape = list(weights.shape)
    about = {"base": args.base, "shape": shape, "changed_rows": ROWS, "max_error": ERROR}
    write_result(QUALITY, "embedding", {**head, **about}, rows)
