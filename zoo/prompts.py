"""Write held-out rows of a recipe's tasks for demos and tests, which then need no generator.

    python -m zoo.prompts --recipe zoo/recipes/examples.json --output examples/prompts

The folder gets a file NAME.jsonl for each adapter, as ``hydraopt merge --prompts`` takes it, a row
a line: {"instruction", "input", "output"}. The rows are the first ones of the test split. The
prompt of a row is BOS, then `batching.prompt_text(instruction, input)`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo.recipe import Plan, read_recipe
from zoo.tasks import first_rows, load_task


def held_out(plan: Plan, count: int, tasks: Path | None = None) -> list[dict[str, object]]:
    """The first `count` test rows of an adapter's task, each with the instruction."""
    task = load_task(plan.task, plan.language, tasks, seed=plan.seed)
    return [{"instruction": task.instruction, **row} for row in first_rows(task.test, count)]


def main() -> None:
    """Command line: write the rows, a file for each adapter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, help="folder of task folders; default: generate them")
    parser.add_argument("--rows", type=int, default=64, help="rows per adapter (default 64)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for plan in read_recipe(args.recipe).plans:
        rows = held_out(plan, args.rows, args.tasks)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.output / f"{plan.name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
