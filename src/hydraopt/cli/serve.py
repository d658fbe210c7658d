"""``hydraopt serve``."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from hydraopt.cli.main import EndedError
from hydraopt.cli.options import Command, common_options
from hydraopt.cli.terminal import emit_json, say
from hydraopt.errors import UsageError, explain


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to that address, not yet listening; UsageError if it is invalid or taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            explain("cannot listen there", got=f"{host}, port {port}: {error.strerror}")
        ) from error
    return listener


def _maximum(name: str, default: int, text: str) -> Callable[[Command], Command]:
    """Return an option for the largest number of something, at least 1."""
    limit = click.IntRange(min=1)
    return click.option(name, type=limit, default=default, show_default=True, help=text)


@click.command(short_help="Serve a base model and its tasks over HTTP.")
@click.argument("base")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 chooses a free one.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Host name to accept in requests, such as that of a proxy. Repeatable.",
)
@click.option(
    "--name", help="Name of the base model in requests. Default: its name in the bundles."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Number type of the base model.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Device for torch: cpu, cuda or mps."
)
@_maximum("--rows", 16, "Maximum number of answers generated at a time.")
@_maximum("--queue", 256, "Maximum number of waiting requests.")
@_maximum("--connections", 512, "Maximum number of connections; others get 503.")
@_maximum("--prompt-tokens", 2048, "Maximum length of a prompt, in tokens.")
@_maximum("--answer-tokens", 1024, "Maximum length of an answer, in tokens.")
@click.option(
    "--seconds", default=120.0, show_default=True, help="Maximum time of a request, in seconds."
)
@click.option(
    "--cache",
    "cache_mib",
    type=click.IntRange(min=0),
    help="Memory for decoded heads, in MiB. Default: with the core, a quarter of the memory of all "
    "adapters; at least 4, at most 256.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of the model. Default: all cores."
)
@common_options
def serve(base: str, bundles: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Serve BASE and every task of the BUNDLEs over HTTP, compatible with OpenAI's API.

    The model of a request is the name of a task or of the base. Requests for different tasks run in
    one batch. If other machines can reach HOST, clients must send the key in the environment
    variable HYDRAOPT_API_KEY. Requires pip install 'hydraopt[serve]'.

    \b
    Example:
      hydraopt serve ./base phone.hydra.safetensors --port 8000
    """
    host, seconds = options["host"], options["seconds"]
    if not 0 < seconds < math.inf:
        what = "--seconds must be positive and finite"
        raise UsageError(explain(what, got=seconds, do="Give a number of seconds"))
    api_key = os.environ.get("HYDRAOPT_API_KEY") or None
    from hydraopt.serve import check_key

    check_key(host, api_key)
    # Check the port first: loading the model takes much longer.
    with bind(host, options["port"]) as listening:
        server, models = _loaded(base, bundles, api_key, options)
        named = f"[{host}]" if ":" in host else host
        address = f"http://{named}:{listening.getsockname()[1]}/v1"
        listening.listen(options["connections"])  # a reader of the address may connect at once
        if as_json:
            emit_json({"schema": "hydraopt.serve/1", "address": address, "models": models})
        else:
            say(f"{len(models) - 1} tasks on {models[0]} at {address}")
        _log_to_stderr()
        with suppress(EndedError):  # SIGTERM: requests under way are finished
            server.run(sockets=[listening])


def _log_to_stderr() -> None:
    """Log requests and failures to stderr, unless the caller has set handlers."""
    log = logging.getLogger("hydraopt.serve")
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _loaded(
    base: str, bundles: tuple[str, ...], api_key: str | None, options: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Return the server and the models that it serves: the base's name, then the tasks."""
    import torch

    from hydraopt.serve import Limits, Reload, base_name_of, limited, load_engine, make_server

    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    names = ("rows", "queue", "prompt_tokens", "answer_tokens", "seconds")
    limits = Limits(**{name: options[name] for name in names})
    cache = None if options["cache_mib"] is None else options["cache_mib"] << 20
    engine = load_engine(
        base,
        bundles,
        limits,
        dtype=options["dtype"],
        device=options["device"],
        cache_bytes=cache,
    )
    base_name = options["name"] or base_name_of(base, bundles)
    server = make_server(
        engine,
        base_name,
        options["host"],
        options["port"],
        api_key,
        reload=Reload(engine, base_name, bundles, cache),
        hosts=options["allow_host"],
        protocol=limited(options["connections"]),
    )
    return server, [base_name, *engine.tasks]
