"""A worker process: it serves one servant until the other end of its socket is closed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["ANSWER", "CALL", "ERROR", "HIRE", "main"]

HIRE, CALL, ANSWER, ERROR = range(4)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # An interrupt is for the process that started this one, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    import numpy  # noqa: F401  # BLAS has to be there before it can be held to one thread
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        try:
            _serve(connection)
        except (EOFError, OSError):  # whoever asked is gone
            os._exit(0)


def _serve(connection: Connection) -> None:
    servant: Any = None
    while True:
        what, name, arguments = pickle.loads(connection.recv_bytes())
        if what == HIRE:
            servant = name(*arguments)
            continue
        try:
            reply = pickle.dumps((ANSWER, getattr(servant, name)(*arguments)), protocol=5)
        except Exception as error:
            reply = _told(error)
        connection.send_bytes(reply)


def _told(error: Exception) -> bytes:
    """The error, with where it was raised as a note, if it can be sent."""
    error.add_note(f"raised in a worker:\n{''.join(traceback.format_tb(error.__traceback__))}")
    try:
        return pickle.dumps((ERROR, error), protocol=5)
    except Exception:
        text = f"{type(error).__name__}: {error}"
        return pickle.dumps((ERROR, RuntimeError(text)), protocol=5)
