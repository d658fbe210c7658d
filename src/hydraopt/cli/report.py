"""``hydraopt report``: a page, a live page, or a model card of a bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

import click

from hydraopt.cli.options import common_options, force_option, originals_option, same_base_option
from hydraopt.cli.serve import bind
from hydraopt.cli.terminal import (
    cannot_combine,
    emit_json,
    needs,
    progress_bar,
    say,
    say_notes,
    size_text,
)
from hydraopt.errors import UsageError, explain, require
from hydraopt.files import to_json

_HOST: Final = "127.0.0.1"
"""The page has no key, so only this machine may reach it."""
_PORT: Final = 8001


@click.command(short_help="Write a page or a model card about a bundle.")
@click.argument("bundle")
@click.argument("more", nargs=-1, metavar="[ADAPTERS|EVAL.json]...")
@originals_option
@click.option(
    "--results",
    multiple=True,
    metavar="EVAL.json",
    help="Results written by hydraopt eval -o; several may follow one --results.",
)
@click.option(
    "-o", "--output", metavar="OUT", help="File to write: the page, or the card with --card."
)
@click.option("--card", is_flag=True, help="Write a model card instead; without -o, to stdout.")
@click.option("--serve", is_flag=True, help="Serve the page to a browser on this machine instead.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port for --serve. Default: 8001; 0 chooses a free one.",
)
@same_base_option
@force_option("Overwrite an output that hydraopt did not write.")
@common_options
def report(
    bundle: str,
    more: tuple[str, ...],
    originals: tuple[str, ...],
    results: tuple[str, ...],
    output: str | None,
    card: bool,
    serve: bool,
    port: int | None,
    same_base: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write an HTML page about the size of BUNDLE and its effect on each task.

    The page shows size against harm, tasks by harm, errors and bytes by module, similar tasks, and
    the answers in EVAL.json, a result of hydraopt eval. With original ADAPTERS, these are compared
    to find similar tasks. ADAPTERS and EVAL.json may also follow BUNDLE directly.

    --serve shows the page without writing a file: it accepts connections from this machine only,
    and ends with Ctrl-C; requires pip install 'hydraopt[serve]'. --card writes the README.md that
    model hubs read.

    \b
    Example:
      hydraopt report phone.hydra.safetensors -o report.html
      hydraopt report phone.hydra.safetensors --originals adapters/* --results eval.json -o r.html
      hydraopt report phone.hydra.safetensors --results eval.json --card -o README.md
      hydraopt report collection --results eval.json --serve --port 8001
    """
    adapters, files = _told_apart(more, originals, results)
    if sum((card, serve, output is not None and not card)) != 1:
        raise needs("report", "one of -o, --card, --serve")
    if port is not None and not serve:
        raise needs("--port", "--serve")
    if force and output is None:
        raise needs("--force", "-o")
    if same_base and not adapters:
        raise needs("--same-base", "ADAPTERS")
    if card and adapters:
        raise cannot_combine("--card", ["ADAPTERS"])
    if card:
        _card(bundle, files, output, force, as_json)
    elif serve:
        _serve(bundle, adapters, files, _PORT if port is None else port, same_base, as_json)
    elif output is not None and output.lower().endswith(".md"):
        do = "Write a card with --card, or give the page a name that ends in .html"
        raise UsageError(explain("the page is HTML", file=output, expected=".html", do=do))
    elif output is not None:
        _page(bundle, adapters, files, output, same_base, force, as_json)


def _told_apart(
    more: Sequence[str], originals: Sequence[str], results: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return originals and results.

    more: paths after the first value of an option, as a shell expands a pattern; names that end in
    .json are results.
    """
    files = [x for x in more if x.lower().endswith(".json")]
    return [*originals, *(x for x in more if x not in files)], [*results, *files]


def _page(
    bundle: str,
    adapters: Sequence[str],
    files: Sequence[str],
    output: str,
    same_base: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the page."""
    from hydraopt.report import write_report

    started = time.monotonic()
    with progress_bar() as progress:
        page = write_report(
            bundle,
            output,
            adapters,
            files,
            same_base=same_base,
            overwrite=force,
            progress=progress,
        )
    size = os.path.getsize(output)
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
                "notes": to_json(page.notes),
                "seconds": round(seconds, 3),
            }
        )
        return
    for line in page.summary:
        say(line)
    say_notes(page.notes)
    say(f"{output}: {size_text(size)}, {seconds:.1f} s")


def _card(
    bundle: str, files: Sequence[str], output: str | None, force: bool, as_json: bool
) -> None:
    """Write the model card; nothing is decoded for it."""
    from hydraopt.report import write_card

    text, known = write_card(bundle, output, files, overwrite=force)
    notes = known.evidence.notes
    if as_json:
        emit_json(
            {"schema": "hydraopt.card/1", "output": output, "card": text, "notes": to_json(notes)}
        )
    elif output is None:
        for line in text.splitlines():
            say(line)
    else:
        say_notes(notes)
        say(f"{bundle} -> {output}")


def _serve(
    bundle: str,
    adapters: Sequence[str],
    files: Sequence[str],
    port: int,
    same_base: bool,
    as_json: bool,
) -> None:
    """Serve the page on this machine until Ctrl-C."""
    from hydraopt.report import build, make_server

    require("uvicorn", "fastapi")

    with bind(_HOST, port) as listening:
        with progress_bar() as progress:
            page = build(bundle, adapters, files, same_base=same_base, progress=progress)
        server = make_server(page, _HOST)
        address = f"http://{_HOST}:{listening.getsockname()[1]}/"
        listening.listen(64)  # a reader of the address may connect at once
        if as_json:
            schema = "hydraopt.report.served/1"
            emit_json({"schema": schema, "address": address, "tasks": page.count})
        else:
            say(f"{page.count:,} tasks at {address} (end with Ctrl-C)")
        server.run(sockets=[listening])
