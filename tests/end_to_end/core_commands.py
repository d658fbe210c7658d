"""Commands that need no extra, on the examples, in this environment.

    python tests/end_to_end/core_commands.py EXAMPLES FOLDER

EXAMPLES holds the folder ``adapters``; FOLDER is for what the commands write. Ends with 1 at the
first command that fails, and if a library of an extra was imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydraopt.cli.main import cli

HEAVY = {"torch", "transformers", "safetensors", "scipy", "peft", "matplotlib", "gguf", "onnx"}


def commands(examples: Path, folder: Path) -> list[list[object]]:
    """Return the arguments of each command."""
    first, *most, last = sorted((examples / "adapters").iterdir())
    bundle, parts = folder / "a.hydra.safetensors", folder / "parts"
    return [
        ["merge", first, *most, "--size", "5%", "-o", bundle],
        ["inspect", bundle],
        ["inspect", first],
        ["verify", bundle, first, *most],
        ["export", bundle, first.name, "-o", folder / "peft"],
        ["export", bundle, "--all", "-o", folder / "vllm", "--format", "vllm"],
        ["export", bundle, first.name, "-o", folder / "mlx", "--format", "mlx"],
        ["add", bundle, last],
        ["remove", bundle, first.name],
        ["refresh", bundle],
        ["shrink", bundle, "--size", "3%", "-o", folder / "b.hydra.safetensors"],
        ["split", bundle, "-o", parts],
        ["join", parts, "-o", folder / "c.hydra.safetensors"],
        ["report", bundle, "-o", folder / "report.html"],
        ["report", bundle, "--card", "-o", folder / "card.md"],
        ["doctor"],
    ]


def main() -> None:
    """Run all commands."""
    examples, folder = map(Path, sys.argv[1:])
    for command in commands(examples, folder):
        words = [str(word) for word in command]
        print("hydraopt", *words, flush=True)
        code = cli.main(words, standalone_mode=False)
        if code:
            sys.exit(f"exit code {code}")
    if loaded := sorted(HEAVY & sys.modules.keys()):
        sys.exit(f"imported: {', '.join(loaded)}")


if __name__ == "__main__":
    main()
