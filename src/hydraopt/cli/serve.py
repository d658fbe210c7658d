"""``hydraopt serve``."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from hydraopt.cli.common import emit_json, json_option, say
from hydraopt.cli.main import EndedError
from hydraopt.errors import UsageError, explain

__all__ = ["serve"]


@dataclass(frozen=True)
class _Asked:
    """The options of serve."""

    host: str
    port: int
    api_key: str | None
    allow_host: tuple[str, ...]
    name: str | None
    dtype: str
    device: str
    rows: int
    queue: int
    connections: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    cache_mib: int | None
    threads: int | None

    def __post_init__(self) -> None:
        counts = (self.rows, self.queue, self.connections, self.prompt_tokens, self.answer_tokens)
        if min(counts) < 1 or not 0 < self.seconds < math.inf:
            raise UsageError(explain("limits must be positive", expected="finite numbers above 0"))

    def address(self, port: int) -> str:
        """Return the address of the interface for clients."""
        named = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{named}:{port}/v1"


@click.command()
@click.argument("base")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--api-key",
    envvar="HYDRAOPT_API_KEY",
    help="Asked of every client; needed if others can reach HOST. Also HYDRAOPT_API_KEY.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Host that requests may name besides this machine's own, as of a proxy; repeat it.",
)
@click.option("--name", help="Of the base model in requests; default: as the bundles name it.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="In which the base computes.",
)
@click.option("--device", default="cpu", show_default=True, help="Of torch: cpu, cuda, mps.")
@click.option("--rows", default=16, show_default=True, help="Answers written at a time.")
@click.option("--queue", default=256, show_default=True, help="Requests that may wait.")
@click.option(
    "--connections", default=512, show_default=True, help="Open at a time; beyond it 503."
)
@click.option("--prompt-tokens", default=2048, show_default=True, help="Of a prompt, at most.")
@click.option("--answer-tokens", default=1024, show_default=True, help="Of an answer, at most.")
@click.option("--seconds", default=120.0, show_default=True, help="A request may take.")
@click.option(
    "--cache",
    "cache_mib",
    type=click.IntRange(min=0),
    help="MiB of decoded heads; default, with the core, a quarter of the adapters, 4 to 256.",
)
@click.option("--threads", type=click.IntRange(min=1), help="For the model; default all cores.")
@json_option
def serve(base: str, bundles: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Serve BASE and every task of the BUNDLEs over OpenAI's HTTP interface.

    A request's model is the name of a task, or of the base. Rows of different tasks are answered
    in one batch. Needs pip install 'hydraopt[serve]'.

    \b
    Example:
      hydraopt serve ./base phone.hydra.safetensors --port 8000
    """
    asked = _Asked(**options)
    try:
        from hydraopt.serve.server import bind
    except ModuleNotFoundError as error:
        raise UsageError(
            explain(
                "serve needs more packages",
                got=f"no module {error.name}",
                do="pip install 'hydraopt[serve]'",
            )
        ) from error
    from hydraopt.serve.server import check_key

    check_key(asked.host, asked.api_key)
    # Loading takes much longer than to see that the port is in use, so that comes first.
    with bind(asked.host, asked.port) as listening:
        server, models = _loaded(base, bundles, asked)
        address = asked.address(listening.getsockname()[1])
        listening.listen(asked.connections)  # Who reads the address may come at once.
        if as_json:
            emit_json({"schema": "hydraopt.serve/1", "address": address, "models": models})
        else:
            say(f"{len(models) - 1} tasks on {models[0]} at {address}")
        _log_to_stderr()
        with suppress(EndedError):  # SIGTERM: what was under way is done, and nothing failed
            server.run(sockets=[listening])


def _log_to_stderr() -> None:
    """Show the server's log, a line for each request and what fails, unless the caller's own
    handlers do."""
    log = logging.getLogger("hydraopt.serve")
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _loaded(base: str, bundles: tuple[str, ...], asked: _Asked) -> tuple[Any, list[str]]:
    """The server, and what it serves: the base's name, and the tasks."""
    import torch

    from hydraopt.serve.jobs import Limits
    from hydraopt.serve.limits import limited
    from hydraopt.serve.reload import Reload
    from hydraopt.serve.server import base_name_of, load_engine, make_server

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    limits = Limits(
        asked.rows, asked.queue, asked.prompt_tokens, asked.answer_tokens, asked.seconds
    )
    cache = None if asked.cache_mib is None else asked.cache_mib << 20
    engine = load_engine(
        base, bundles, limits, dtype=asked.dtype, device=asked.device, cache_bytes=cache
    )
    base_name = asked.name or base_name_of(base, bundles)
    server = make_server(
        engine,
        base_name,
        asked.host,
        asked.port,
        asked.api_key,
        reload=Reload(engine, base_name, bundles, cache),
        hosts=asked.allow_host,
        protocol=limited(asked.connections),
    )
    return server, [base_name, *engine.tasks]
