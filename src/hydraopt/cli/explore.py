"""``hydraopt explore``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say
from hydraopt.cli.looking import results_option, told_apart
from hydraopt.errors import UsageError, explain

__all__ = ["explore"]


@click.command()
@click.argument("bundle")
@click.argument("more", nargs=-1, metavar="[EVAL.json]...")
@results_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Of this machine's own.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="0 takes a free one.",
)
@json_option
def explore(
    bundle: str,
    more: tuple[str, ...],
    results: tuple[str, ...],
    host: str,
    port: int,
    as_json: bool,
) -> None:
    """Serve the report of BUNDLE to a browser on this machine, for collections of many tasks.

    The page asks for what it shows, and a task is decoded when it is looked at: ten thousand tasks
    stay usable. Nothing leaves the machine. Ctrl-C ends it. Needs pip install 'hydraopt[serve]'.

    \b
    Example:
      hydraopt explore collection --results eval.json --port 8001
    """
    others, files = told_apart(more, (), results)
    if others:
        raise UsageError(
            explain("explore expects result files", got=others[0], expected="EVAL.json")
        )
    try:
        from hydraopt.serve.limits import is_loopback
    except ModuleNotFoundError as error:
        raise UsageError(
            explain(
                "explore needs more packages",
                got=f"no module {error.name}",
                do="pip install 'hydraopt[serve]'",
            )
        ) from error
    if not is_loopback(host):
        raise UsageError(
            explain(
                "the page has no key, so only this machine may reach it",
                got=f"host {host}",
                expected="127.0.0.1, ::1 or localhost",
                do="Forward the port, for example with ssh -L",
            )
        )
    from hydraopt.report.build import collect
    from hydraopt.report.live import make_server
    from hydraopt.serve.listening import bind

    with bind(host, port) as listening:
        known = collect(bundle, files, whole=False)
        server = make_server(known, host)
        taken = listening.getsockname()[1]
        address = f"http://[{host}]:{taken}/" if ":" in host else f"http://{host}:{taken}/"
        listening.listen(64)  # Who reads the address may come at once.
        if as_json:
            said = {"schema": "hydraopt.explore/1", "address": address, "tasks": len(known.tasks)}
            emit_json(said)
        else:
            say(f"{len(known.tasks):,} tasks at {address} (Ctrl-C ends it)")
        server.run(sockets=[listening])
