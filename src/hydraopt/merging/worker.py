"""Worker process: it serves one servant until the other end of its socket is closed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from hydraopt.codec import one_blas_thread


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # An interrupt is for the process that started this one, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    with one_blas_thread():
        _serve(connection)


def _serve(connection: Connection) -> None:
    """Answer (make, arguments), which gives a servant, and (method, arguments) in turn."""
    servant: Any = None
    try:
        while True:
            data = connection.recv_bytes()
            try:
                what, arguments = pickle.loads(data)
                if callable(what):
                    servant, value = what(*arguments), None
                else:
                    value = getattr(servant, what)(*arguments)
                reply = pickle.dumps((True, value), protocol=5)
            except Exception as error:
                reply = _told(error)
            connection.send_bytes(reply)
    except (EOFError, OSError):  # whoever asked is gone
        os._exit(0)


def _told(error: Exception) -> bytes:
    """Return the error, with its traceback as a note, if it can be sent."""
    error.add_note(f"raised in a worker:\n{''.join(traceback.format_tb(error.__traceback__))}")
    try:
        data = pickle.dumps((False, error), protocol=5)
        pickle.loads(data)  # some are written well and cannot be read
    except Exception:
        text = f"{type(error).__name__}: {error}"
        data = pickle.dumps((False, RuntimeError(text)), protocol=5)
    return data
