"""Serve a base model and bundles on a port, with one log line a request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import uvicorn

from hydraopt.adapters import base_label
from hydraopt.errors import HydraoptError, UsageError, explain
from hydraopt.model import load_model
from hydraopt.serve.api import make_app
from hydraopt.serve.attached import attach
from hydraopt.serve.bundles import named_bundles
from hydraopt.serve.engine import ModelEngine, Reload, check_names
from hydraopt.serve.jobs import Limits
from hydraopt.serve.limits import IDLE_SECONDS, OwnHosts, is_loopback, limited

access_log = logging.getLogger("hydraopt.serve.access")


class AccessLog:
    """Application whose requests are logged: client, method, path, status, seconds.

    A query is left out, and so are headers and bodies: they may hold what is nobody's business.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            client = "{}:{}".format(*scope["client"]) if scope.get("client") else "-"
            path = ascii(scope["path"])[1:-1]
            seconds = time.monotonic() - start
            access_log.info("%s %s %s %d %.3f s", client, scope["method"], path, status, seconds)


_DRAIN_SECONDS = 18.0
"""Seconds for answers under way, from the signal that ends the server."""
_CLOSE_SECONDS = 20
"""Seconds for connections to close, from then."""
_END_SECONDS = 24.0
"""Seconds for the process to end, from then, whatever hangs."""

log = logging.getLogger(__name__)


def check_key(host: str, api_key: str | None) -> None:
    """Raise UsageError for an address that others can reach without a key."""
    if api_key is not None and (not api_key or not api_key.isascii() or not api_key.isprintable()):
        raise UsageError(explain("the API key is empty or has odd characters"))
    if api_key is None and not is_loopback(host):
        raise UsageError(
            explain(
                "an address that others can reach needs an API key",
                got=f"host {host}",
                do="Set HYDRAOPT_API_KEY, or bind to 127.0.0.1",
            )
        )


def load_engine(
    base: str,
    bundles: Sequence[str],
    limits: Limits,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    cache_bytes: int | None = None,
) -> ModelEngine:
    """Return the engine of a base model with all tasks of the bundles, not yet started.

    cache_bytes: as for :func:`hydraopt.attach`.

    Each task generates a token, so that a task that cannot be served is found now. Raises
    UsageError, AlignmentError or BundleFormatError.
    """
    model, tokenizer = load_model(base, dtype)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            explain("the device cannot be used", got=f"{device}: {str(error).splitlines()[0]}")
        ) from error
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokens = limits.prompt_tokens + limits.answer_tokens
    if isinstance(longest, int) and tokens > longest:
        raise UsageError(
            explain(
                "the limits are beyond the base model's context",
                got=f"{tokens} tokens of prompt and answer",
                expected=f"at most {longest}",
                do="Lower --prompt-tokens or --answer-tokens",
            )
        )
    attached = attach(model, list(bundles), cache_bytes=cache_bytes)
    engine = ModelEngine(model, tokenizer, attached, limits)
    engine.try_all()
    return engine


def base_name_of(base: str, bundles: Sequence[str]) -> str:
    """Return the name of the base model in requests: the bundles' name, else its folder's.

    The folder may be a cache's.
    """
    stated = (bundle.base_model for bundle in named_bundles(bundles).values())
    for name in (*(x for x in stated if x), os.path.abspath(base)):
        label = base_label(name)
        if label.strip("."):
            return label
    return "base"


class Server(uvicorn.Server):
    """Server to ``run()``.

    SIGTERM and SIGINT let it finish its answers, and take no more, for 18 s; the process ends
    within 25 s. SIGHUP loads the bundles again.
    """

    def __init__(self, config: uvicorn.Config, engine: ModelEngine, reload: Reload | None) -> None:
        super().__init__(config)
        self._engine, self._reload = engine, reload

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.should_exit:
            # A thread of this process may be in a computation that nothing interrupts.
            last = threading.Timer(_END_SECONDS, os._exit, (128 + sig,))
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        main = threading.current_thread() is threading.main_thread()
        if self._reload is not None and main and hasattr(signal, "SIGHUP"):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._load_again, loop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.hurry(_DRAIN_SECONDS)
        await super().shutdown(sockets)

    def _load_again(self, loop: asyncio.AbstractEventLoop) -> None:
        def load() -> None:
            assert self._reload is not None
            try:
                log.warning("the bundles were loaded again: %d tasks", len(self._reload()))
            except HydraoptError as error:
                log.error("%s", error)
            except Exception:  # nobody waits for it
                log.exception("the bundles were not loaded again")

        loop.run_in_executor(None, load)


def make_server(
    engine: ModelEngine,
    base_name: str,
    host: str,
    port: int,
    api_key: str | None = None,
    *,
    reload: Reload | None = None,
    hosts: Sequence[str] = (),
    protocol: type[asyncio.Protocol] | None = None,
) -> Server:
    """Create a server to ``run()``.

    reload: function that loads the bundles again.
    hosts: further host names that requests may use besides this machine's own, where only this
    machine is listened to.
    protocol: protocol of :func:`hydraopt.serve.limits.limited`.

    Raises UsageError as :func:`check_key`, and if a task has the base's name.
    """
    check_key(host, api_key)
    check_names(base_name, engine.tasks)
    app: Any = make_app(engine, base_name, api_key, reload)
    if is_loopback(host):
        app = OwnHosts(app, (host, *hosts))
    app = AccessLog(app)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=logging.WARNING,
        http=protocol or limited(),
        ws="none",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        server_header=False,
    )
    return Server(config, engine, reload)
