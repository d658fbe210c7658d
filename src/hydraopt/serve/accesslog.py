"""Log each answered request in one line, to the logger ``hydraopt.serve.accesslog``."""

from __future__ import annotations

import logging
import time
from typing import Any

__all__ = ["AccessLog"]

log = logging.getLogger(__name__)


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
            log.info("%s %s %s %d %.3f s", client, scope["method"], path, status, seconds)
