"""HTML file of a page: it contains its data, styles and scripts, and fetches nothing.

The page's own policy forbids any connection and any script but these, by their hashes. Names and
answers are text, and would stay text even if they were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

from hydraopt.files import to_json
from hydraopt.report.data import Page

_ASSETS = files("hydraopt.report") / "assets"

VENDOR: Final = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
SCRIPTS: Final = (
    *VENDOR,
    *(f"{name}.js" for name in ("text", "dom", "source", "plots", "tasks", "task", "main")),
)
"""Scripts, in the order in which they run."""


def render(page: Page) -> str:
    """Return the whole file as text."""
    scripts = [_text(path) for path in SCRIPTS]
    parts = {
        "policy": policy_of(scripts),
        "title": escape(page.name),
        "style": _text("page.css"),
        "data": data_text(page),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    text = _text("page.html")
    for key, value in parts.items():
        text = text.replace(f"<!--{key}-->", value, 1)
    return text


def policy_of(scripts: list[str]) -> str:
    """Return the content security policy: these scripts, inline styles, and no other source."""
    hashes = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in scripts]
    allowed = " ".join(f"'sha256-{x}'" for x in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def data_text(page: Page) -> str:
    """Return the page's data as JSON that cannot end the element around it."""
    text = json.dumps(
        _compact(to_json(page)), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    # Inside an object these three stand in strings alone, where the escapes mean the same.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _compact(value: Any) -> Any:
    """Return the value with floats rounded to four digits, which keeps the page small."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _compact(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(x) for x in value]
    return value


def _text(name: str) -> str:
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")


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

    from hydraopt.serve import IDLE_SECONDS, OwnHosts, limited

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
