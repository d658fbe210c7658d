"""Score trained adapters of other tuners after a merge to 10 % of their bytes.

    python -m benchmarks.quality trained_tuners --tasks TASKS --rows 200

Each adapter of zoo/recipes/smollm2-tuners5.json is merged alone, exported, and loaded by PEFT. The
scores are of greedy decoding on test rows: an answer is right if every token is. Flips are rows
where original and export differ in being right.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, write_result
from hydraopt.adapters import read_adapter
from hydraopt.collection.opening import open_bundle, verify_bundle
from hydraopt.merging.merge import merge

SIZE = "10%"
_SET = ROOT / "zoo" / "adapters" / "smollm2-tuners5"
_RECIPE = ROOT / "zoo" / "recipes" / "smollm2-tuners5.json"


def _answers(model: Any, items: Sequence[Any]) -> tuple[np.ndarray, float]:
    """Return whether each row's tokens are all the likeliest ones, and the mean loss of a token."""
    import torch

    from hydraopt.basemodel.encoding import batches_by_tokens
    from zoo.batching import collate, target_logits

    right, loss, tokens = np.ones(len(items), bool), 0.0, 0
    for chunk in batches_by_tokens([len(item) for item in items], 1024):
        batch = collate([items[i] for i in chunk])
        with torch.inference_mode():
            logits = target_logits(model, batch)
            loss += float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
            missed = batch.row[logits.argmax(-1) != batch.labels].tolist()
        right[[chunk[row] for row in set(missed)]] = False
        tokens += batch.labels.numel()
    return right, loss / tokens


def _loaded(folder: Path, name: str) -> Any:
    """Return the base model with an adapter as PEFT loads it; the layers are changed in place."""
    from peft import PeftModel

    from zoo.bases import load_base

    return PeftModel.from_pretrained(load_base(name)[0], folder).get_base_model().eval()


def _row(place: Path, base: str, items: Sequence[Any], without: float) -> dict[str, Any]:
    adapter = read_adapter(place)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "one.hydra.safetensors"
        result = merge([adapter], target, size=SIZE)
        verified = verify_bundle(target, [adapter]).ok
        task = open_bundle(target)[adapter.name]
        task.save_pretrained(Path(folder) / "out")
        one, loss = _answers(_loaded(place, base), items)
        two, other = _answers(_loaded(Path(folder) / "out", base), items)
    return {
        "adapter": place.name,
        "tuner": adapter.config["peft_type"],
        "fp16_bytes": result.fp16_bytes,
        "bytes": result.size,
        "error": task.error,
        "tensors_error": max(task.tensor_errors.values(), default=None),
        "verified": verified,
        "base": without,
        "original": float(one.mean()),
        "export": float(two.mean()),
        "flips": int((one != two).sum()),
        "loss": {"original": loss, "export": other},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    from zoo.bases import load_base
    from zoo.batching import encode
    from zoo.tasks import first_rows, load_task

    parser = parser_of(__name__, __doc__)
    parser.add_argument(
        "--tasks", type=Path, help="folder of tasks; else rows are generated, others"
    )
    parser.add_argument("--rows", type=int, default=200)
    args = parser.parse_args(arguments)
    recipe = json.loads(_RECIPE.read_text(encoding="utf-8"))
    task = load_task("date_format", "en", args.tasks)
    model, tokenizer = load_base(recipe["base"])
    items = encode(tokenizer, first_rows(task.test, args.rows), task.instruction)
    without = float(_answers(model, items)[0].mean())
    head = provenance("trained adapters of other tuners at 10 %", seed=None)
    rows = []
    for place in sorted(x for x in _SET.iterdir() if x.is_dir()):
        rows.append(_row(place, recipe["base"], items, without))
        print(rows[-1])
    write_result(QUALITY, "trained-tuners", {**head, "task": "date_format/en"}, rows)
