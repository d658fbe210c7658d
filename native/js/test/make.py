"""Bundles for the tests of the npm package, and what hydraopt exports of them.

python native/js/test/make.py FOLDER

FOLDER/bundle.hydra.safetensors: a few of the examples, merged. FOLDER/apart: its core and tasks.
FOLDER/carried.hydra.safetensors: the same bit by bit. FOLDER/TASK/peft, /lossless: what ``hydraopt
export`` writes. FOLDER/TASK/gguf: the same for llama.cpp, of FOLDER/config.json, the base's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ADAPTERS = ROOT / "examples" / "adapters"
TASKS = 3
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def hydraopt(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "hydraopt", *map(str, arguments)], check=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    adapters = sorted(ADAPTERS.iterdir())[:TASKS]
    bundle, carried = (folder / f"{x}.hydra.safetensors" for x in ("bundle", "carried"))
    hydraopt("merge", *adapters, "--size", "10%", "-o", bundle)
    hydraopt("merge", *adapters, "--lossless", "-o", carried)
    hydraopt("split", bundle, "-o", folder / "apart")
    config = folder / "base" / "config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps(CONFIG))
    for adapter in adapters:
        name, place = adapter.name, folder / adapter.name
        hydraopt("export", bundle, name, "-o", place / "peft")
        hydraopt("export", carried, name, "-o", place / "lossless")
        gguf = "export", bundle, name, "--format", "gguf", "--base", config.parent
        hydraopt(*gguf, "-o", place / "gguf")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
