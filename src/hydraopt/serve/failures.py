"""Failures of answers: the message that a client receives, and the line in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hydraopt.errors import (
    BundleFormatError,
    ExportError,
    HydraoptError,
    NumericalError,
    RemoteError,
    TaskNotFoundError,
)
from hydraopt.serve.jobs import Piece
from hydraopt.serve.rows import BatchRow

__all__ = ["GONE", "UNREAD", "UNREADABLE", "fail"]

UNREADABLE = (
    "the task can no longer be read from its bundle as it was; try again, or have the server load "
    "it again (POST /reload)"
)
GONE = "the task is no longer in its bundle"
UNREAD = (BundleFormatError, ExportError, RemoteError, TaskNotFoundError)
"""Exceptions of reading a task whose files have changed."""

log = logging.getLogger(__name__)


def fail(rows: Sequence[BatchRow], error: Exception, what: str) -> None:
    """End the rows and log the failure and its reason.

    The log has a traceback only for an error that is not hydraopt's own.
    """
    if rows:
        ours = isinstance(error, HydraoptError)
        log.error("%s: %s", what, error, exc_info=None if ours else error)
    for row in rows:
        row.reason = "error"
        row.answer.deliver(Piece("", row.tokens, "error", _told(error)))


def _told(error: Exception) -> str:
    # Others may say what is nobody's business, as where the bundle lies.
    if isinstance(error, NumericalError):
        return str(error)
    if isinstance(error, TaskNotFoundError):
        return GONE
    return UNREADABLE if isinstance(error, UNREAD) else "the answer could not be computed"
