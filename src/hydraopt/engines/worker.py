"""Worker process: it serves one servant until the other end of its socket is closed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from hydraopt.threads import one_blas_thread

__all__ = ["ANSWER", "CALL", "ERROR", "HIRE", "main"]

HIRE, CALL, ANSWER, ERROR = range(4)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # An interrupt is for the process that started this one, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    with one_blas_thread():
        _serve(connection)


def _serve(connection: Connection) -> None:
    servant: Any = None
    failed: Exception | None = None  # to hire: said to every call, since a hire has no answer
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError):  # whoever asked is gone
            os._exit(0)
        what = data[0]
        try:
            name, arguments = pickle.loads(memoryview(data)[1:])
            if what == HIRE:
                failed, servant = None, name(*arguments)
                continue
            if failed is not None:
                raise failed
            reply = pickle.dumps((ANSWER, getattr(servant, name)(*arguments)), protocol=5)
        except Exception as error:
            if what == HIRE:
                failed = error
                continue
            reply = _told(error)
        try:
            connection.send_bytes(reply)
        except (EOFError, OSError):
            os._exit(0)


def _told(error: Exception) -> bytes:
    """Return the error, with its traceback as a note, if it can be sent."""
    error.add_note(f"raised in a worker:\n{''.join(traceback.format_tb(error.__traceback__))}")
    try:
        data = pickle.dumps((ERROR, error), protocol=5)
        pickle.loads(data)  # some are written well and cannot be read
    except Exception:
        text = f"{type(error).__name__}: {error}"
        data = pickle.dumps((ERROR, RuntimeError(text)), protocol=5)
    return data
