"""From a base model and bundles to an open port."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn

from hydraopt.basemodel.model import load_model
from hydraopt.errors import UsageError, explain
from hydraopt.runtime.attached import attach
from hydraopt.serve.api import make_app
from hydraopt.serve.engine import Engine
from hydraopt.serve.jobs import Limits

__all__ = ["bind", "check_key", "is_loopback", "load_engine", "make_server"]

_IDLE_SECONDS = 5


def is_loopback(host: str) -> bool:
    """Can nobody but this machine reach it?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_key(host: str, api_key: str | None) -> None:
    """Raises UsageError for an address that others can reach without a key."""
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


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address, not yet listening; UsageError if there is none or it is taken."""
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


def load_engine(
    base: str,
    bundles: Sequence[str],
    limits: Limits,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    cache_bytes: int | None = None,
) -> Engine:
    """The engine of a base model with all tasks of the bundles, not yet started.

    cache_bytes: as of :func:`hydraopt.attach`. Each task writes a token, so that what cannot be
    served is found now. Raises UsageError, AlignmentError or BundleFormatError.
    """
    model, tokenizer = load_model(base, dtype)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            explain("the device cannot be used", got=f"{device}: {str(error).splitlines()[0]}")
        ) from error
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    asked = limits.prompt_tokens + limits.answer_tokens
    if isinstance(longest, int) and asked > longest:
        raise UsageError(
            explain(
                "the limits are beyond the base model's context",
                got=f"{asked} tokens of prompt and answer",
                expected=f"at most {longest}",
            )
        )
    attached = attach(model, list(bundles), cache_bytes=cache_bytes)
    engine = Engine(model, tokenizer, attached, limits)
    engine.try_all()
    return engine


def make_server(
    engine: Engine, base_name: str, host: str, port: int, api_key: str | None = None
) -> uvicorn.Server:
    """A server to ``run()``. SIGTERM and SIGINT let it finish what it has and take no more.

    Raises UsageError as :func:`check_key`, and if a task has the base's name.
    """
    check_key(host, api_key)
    if base_name in engine.tasks:
        raise UsageError(
            explain(
                "a task has the name of the base model",
                got=base_name,
                do="Give the base another name with --name",
            )
        )
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_level": logging.WARNING,
        "timeout_keep_alive": _IDLE_SECONDS,
        "timeout_graceful_shutdown": int(engine.limits.seconds) + 1,
        "server_header": False,
    }
    return uvicorn.Server(uvicorn.Config(make_app(engine, base_name, api_key), **settings))
