"""``hydraopt card``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say
from hydraopt.cli.looking import check_page, results_option, told_apart
from hydraopt.errors import UsageError, explain

__all__ = ["card"]


@click.command()
@click.argument("bundle")
@click.argument("more", nargs=-1, metavar="[EVAL.json]...")
@results_option
@click.option("-o", "--output", metavar="README.md", help="Where to write it; default stdout.")
@click.option("--force", is_flag=True, help="Replace an output that hydraopt did not make.")
@json_option
def card(
    bundle: str,
    more: tuple[str, ...],
    results: tuple[str, ...],
    output: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the model card of BUNDLE: README.md with the header that model hubs read.

    It names the base model, the library, languages and metrics, and says for each task what was
    measured. Nothing is decoded. An export writes its own card.

    \b
    Example:
      hydraopt card phone.hydra.safetensors --results eval.json -o README.md
    """
    others, files = told_apart(more, (), results)
    if others:
        raise UsageError(explain("card expects result files", got=others[0], expected="EVAL.json"))
    if output is not None:
        check_page(output, force, lambda text: b"\nlibrary_name: hydraopt\n" in text)
    from hydraopt.report.build import collect
    from hydraopt.report.card import bundle_card

    known = collect(bundle, files)
    text = bundle_card(known)
    if output is not None:
        from hydraopt.files.outputs import destination
        from hydraopt.files.writing import write_atomically

        write_atomically(destination(output), [text.encode()])
    notes = known.evidence.notes
    if as_json:
        said = {"schema": "hydraopt.card/1", "output": output, "card": text, "notes": notes}
        emit_json(said)
    elif output is None:
        for line in text.splitlines():
            say(line)
    else:
        for note in notes:
            say(f"note: {note}")
        say(f"{bundle} -> {output}")
