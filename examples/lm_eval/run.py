"""Run one task of a bundle in lm-evaluation-harness, with its own ``hf`` model. No hub is needed.

    pip install lm-eval peft
    python examples/lm_eval/run.py phone.hydra.safetensors --base BASE

BASE is the folder of SmolLM2-135M-Instruct (``python zoo/bases.py smollm2-135m-instruct`` prints
it). The bundle's task numbers-de is exported as a PEFT folder, which the harness loads on the base
as it loads any adapter; the rows are the held-out ones of examples/prompts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = "numbers-de"


def write_task(folder: Path) -> str:
    """The task's YAML in ``folder``, which names its rows; the name of the task."""
    rows = HERE.parent / "prompts" / f"{TASK}.jsonl"
    name = "hydra_numbers_de"
    text = (HERE / f"{name}.yaml").read_text(encoding="utf-8")
    (folder / f"{name}.yaml").write_text(text.replace("rows.jsonl", str(rows)), encoding="utf-8")
    return name


def main() -> None:
    """Command line: exact match of the base alone and with the bundle's task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--base", required=True)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from hydraopt import open_bundle

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ.setdefault("HF_DATASETS_CACHE", str(folder / "datasets"))
        name = write_task(folder)
        open_bundle(args.bundle)[TASK].save_pretrained(folder / "adapter")
        model = {"pretrained": args.base, "dtype": "float32", "add_bos_token": True}
        for title, more in (("base", {}), ("from the bundle", {"peft": str(folder / "adapter")})):
            found = simple_evaluate(
                model="hf",
                model_args={**model, **more},
                tasks=[name],
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                batch_size=8,
                device="cpu",
                bootstrap_iters=0,
            )
            scores = found["results"][name]
            print(f"{title:16} exact match {scores['exact_match,stripped']:.3f}", flush=True)


if __name__ == "__main__":
    main()
