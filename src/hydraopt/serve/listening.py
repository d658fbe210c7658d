"""Open the socket to listen at before anything slow is loaded."""

from __future__ import annotations

import socket

from hydraopt.errors import UsageError, explain

__all__ = ["bind"]


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
