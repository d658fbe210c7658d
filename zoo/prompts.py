"""Write held-out rows of a recipe's tasks for demos and tests, which then need no generator.

    python -m zoo.prompts --recipe zoo/recipes/examples.json --output examples/prompts.json

The file maps each adapter's name to {"instruction", "rows": [{"input", "output"}]}; the rows are
the first ones of the test split. The prompt of a row is BOS, then
`batching.prompt_text(instruction, input)`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from zoo.recipe import Recipe, read_recipe
from zoo.tasks import first_rows, load_task


def held_out(recipe: Recipe, count: int, tasks: Path | None = None) -> dict[str, Any]:
    """Instruction and the first `count` test rows per adapter name of the recipe."""
    found = {}
    for plan in recipe.plans:
        task = load_task(plan.task, plan.language, tasks, seed=plan.seed)
        found[plan.name] = {
            "instruction": task.instruction,
            "rows": first_rows(task.test, count),
        }
    return found


def main() -> None:
    """Command line: write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, help="folder of task folders; default: generate them")
    parser.add_argument("--rows", type=int, default=40, help="rows per adapter (default 40)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows = held_out(read_recipe(args.recipe), args.rows, args.tasks)
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
