"""``hydraopt verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hydraopt.cli.common import emit_json, json_option, say, show_table

if TYPE_CHECKING:
    from hydraopt.bundle.verify import VerifyReport

__all__ = ["verify"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1)
@click.option("--same-base", is_flag=True, help="As for merge.")
@click.option("--alpha", type=float, help="As for merge.")
@click.option("--base", help="The base model's folder, if tensors are kept as differences from it.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    bundle: str,
    adapters: tuple[str, ...],
    same_base: bool,
    alpha: float | None,
    base: str | None,
    as_json: bool,
) -> None:
    """Read all of BUNDLE again; with ADAPTERS, the originals, also measure every error again.

    Give the originals as they were given to merge: tasks are matched by name. Exit code 0 if all
    is well, 1 if there are problems.

    \b
    Example:
      hydraopt verify phone.hydra.safetensors
      hydraopt verify phone.hydra.safetensors adapters/*
    """
    from hydraopt.adapters import read_adapters
    from hydraopt.bundle.verify import verify_bundle

    originals = None
    if adapters:
        originals = read_adapters(adapters, same_base=same_base, alpha=alpha)
    report = verify_bundle(bundle, originals, base)
    notes = originals.notes if originals is not None else ()
    if as_json:
        emit_json({"schema": "hydraopt.verify/1", **report.to_dict(), "notes": list(notes)})
    else:
        _show(report)
        for note in notes:
            say(f"note: {note}")
    ctx.exit(0 if report.ok else 1)


def _show(report: VerifyReport) -> None:
    if report.tasks:
        show_table(
            f"{report.path}: {report.bytes:,} bytes",
            [
                "task",
                "error",
                "is",
                "worst module",
                "its error",
                "worst tensor",
                "its error",
                "tensors equal bit for bit",
            ],
            [
                [
                    task.name,
                    f"{task.error:.4f}",
                    "measured" if task.measured else "as stated",
                    task.worst[0] if task.worst else "-",
                    f"{task.worst[1]:.4f}" if task.worst else "-",
                    task.worst_tensor[0] if task.worst_tensor else "-",
                    f"{task.worst_tensor[1]:.4f}" if task.worst_tensor else "-",
                    task.exact if task.measured else "-",
                ]
                for task in report.tasks
            ],
        )
    for problem in report.problems:
        say(f"problem: {problem}")
    count = len(report.problems)
    say(f"{count} problem{'s' * (count != 1)}" if count else "all is well")
