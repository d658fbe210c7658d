"""Server of a page, for the browsers of this machine."""

from __future__ import annotations

from typing import Any, Final

from hydraopt.report.model import Page
from hydraopt.report.page import render

__all__ = ["make_server"]

_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


def make_server(page: Page, host: str) -> Any:
    """Create a uvicorn server of the page, to ``run(sockets=[...])``.

    It answers for this machine's own names alone.
    """
    import uvicorn
    from starlette.responses import HTMLResponse

    from hydraopt.serve.limits import IDLE_SECONDS, OwnHosts, limited

    config = uvicorn.Config(
        OwnHosts(HTMLResponse(render(page), headers=_HEADERS), (host,)),
        log_level="warning",
        http=limited(64),
        ws="none",
        lifespan="off",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return uvicorn.Server(config)
