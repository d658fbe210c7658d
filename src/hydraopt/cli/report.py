"""``hydraopt report``."""

from __future__ import annotations

import time

import click

from hydraopt.cli.common import (
    emit_json,
    json_option,
    quiet_option,
    say,
    size_text,
)
from hydraopt.cli.looking import check_page, originals_option, results_option, told_apart
from hydraopt.cli.progress import progress_bar

__all__ = ["report"]


@click.command()
@click.argument("bundle")
@click.argument("more", nargs=-1, metavar="[ADAPTERS|EVAL.json]...")
@originals_option
@results_option
@click.option("-o", "--output", required=True, metavar="FILE.html", help="Where to write it.")
@click.option("--same-base", is_flag=True, help="As for merge.")
@click.option("--alpha", type=float, help="As for merge.")
@click.option("--force", is_flag=True, help="Replace an output that is no report.")
@json_option
@quiet_option
def report(
    bundle: str,
    more: tuple[str, ...],
    originals: tuple[str, ...],
    results: tuple[str, ...],
    output: str,
    same_base: bool,
    alpha: float | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write one HTML page that shows what BUNDLE costs and what it does to its tasks.

    For whoever decides: size against harm, tasks by harm, where error and bytes are, what is shared
    with whom, answers side by side. The page fetches nothing. Other sizes are coded for the page:
    with all original ADAPTERS those of a merge, without any those of shrinking. That takes seconds,
    or minutes where the tasks are many numbers. EVAL.json comes from hydraopt eval; its --answers
    keeps the answers.

    \b
    Example:
      hydraopt report phone.hydra.safetensors -o report.html
      hydraopt report phone.hydra.safetensors --originals adapters/* --results eval.json -o r.html
    """
    adapters, files = told_apart(more, originals, results)
    check_page(output, force, lambda text: b": hydraopt report</title>" in text)
    from hydraopt.files.apart import check_apart
    from hydraopt.files.outputs import destination
    from hydraopt.files.writing import write_atomically
    from hydraopt.report.build import build
    from hydraopt.report.page import render

    check_apart(output, [bundle, *adapters, *files])
    started = time.monotonic()
    with progress_bar(quiet or as_json) as progress:
        page = build(bundle, adapters, files, same_base=same_base, alpha=alpha, progress=progress)
    size = write_atomically(destination(output), [render(page).encode()])
    seconds = time.monotonic() - started
    if as_json:
        emit_json(
            {
                "schema": "hydraopt.report.file/1",
                "output": output,
                "bytes": size,
                "tasks": page.count,
                "judged_by": page.judged_by,
                "summary": list(page.summary),
                "notes": list(page.notes),
                "seconds": round(seconds, 3),
            }
        )
        return
    for line in (*page.summary, *(f"note: {note}" for note in page.notes)):
        say(line)
    say(f"{output}: {size_text(size)}, {seconds:.1f} s")
