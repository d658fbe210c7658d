"""Page of a large collection, served to this machine's browser, which requests data as needed.

Only the tasks that are looked at are decoded. Nothing is written, and nothing is sent to anybody
else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from hydraopt.errors import HydraoptError
from hydraopt.jsonvalues import to_json
from hydraopt.report.build import Collected, layers_of, live_page
from hydraopt.report.page import compact, render_live
from hydraopt.report.tasks import SORTS, Wanted, selected, with_notes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["make_app", "make_server"]

PER_PAGE: Final = 50
"""Number of tasks per answer; the page's script has the same number."""
_MOST_EXAMPLES: Final = 50
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class Explorer:
    """Answers to the page's requests, as JSON values."""

    def __init__(self, known: Collected) -> None:
        self._known = known
        self._tasks = {task.name: task for task in known.tasks}
        examples = known.evidence.examples
        rows = [row for task in known.tasks for row in examples.get(task.name, ())]
        self._examples = sorted(rows, key=lambda row: not row.changed)
        self._decoding = threading.Lock()  # a bundle is read by one at a time
        self.page = _text(to_json(live_page(known)))

    def tasks(self, query: Mapping[str, str]) -> Any:
        """Return a page of the list. Raises ValueError for an invalid query."""
        sort, start = query.get("sort", "harm"), _natural(query.get("from", "0"))
        if sort != "name" and sort not in SORTS:
            raise ValueError(f"no order is called {sort!r}")
        words = {key: query.get(key, "") for key in ("query", "language", "group", "kind")}
        left = selected(self._known.tasks, Wanted(**words, sort=sort, up=query.get("up") == "true"))
        return {"total": len(left), "tasks": to_json(left[start : start + PER_PAGE])}

    def task(self, name: str) -> Any:
        """Return a task with its layers, which are decoded for it; None for an unknown name."""
        if name not in self._tasks:
            return None
        view = self._tasks[name]
        with self._decoding:
            task = self._known.bundle[name]
            layers = layers_of(task)
        if not self._known.bundle.is_whole:
            view = with_notes(view, task.entry)
        examples = self._known.evidence.examples.get(name, ())
        return {
            "task": to_json(view),
            "layers": to_json(layers),
            "examples": to_json(examples),
        }

    def examples(self, query: Mapping[str, str]) -> Any:
        """Return some rows of all tasks, those that change first."""
        start = _natural(query.get("from", "0"))
        count = min(_natural(query.get("count", "6")), _MOST_EXAMPLES)
        rows = self._examples[start : start + count]
        return {"total": len(self._examples), "examples": to_json(rows)}


def make_app(known: Collected) -> Any:
    """Build the application: the page, and four queries under /api/."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    explorer = Explorer(known)
    page = render_live(known.name)

    def answer(text: str, kind: str = "application/json", status: int = 200) -> Response:
        return Response(text, status, _HEADERS, f"{kind}; charset=utf-8")

    def asking(act: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                result = act(request.query_params)
            except ValueError as error:
                return answer(_text({"error": str(error)}), status=400)
            except HydraoptError as error:
                return answer(_text({"error": str(error)}), status=500)
            if result is None:
                return answer(_text({"error": "no such task"}), status=404)
            return answer(_text(result))

        return endpoint

    return Starlette(
        routes=[
            Route("/", lambda request: answer(page, "text/html")),
            Route("/api/page", lambda request: answer(explorer.page)),
            Route("/api/tasks", asking(explorer.tasks)),
            Route("/api/task", asking(lambda query: explorer.task(query.get("name", "")))),
            Route("/api/examples", asking(explorer.examples)),
        ]
    )


def make_server(known: Collected, host: str) -> Any:
    """Create a uvicorn server of the page, to ``run(sockets=[...])``.

    It answers for this machine's own names alone.
    """
    import uvicorn

    from hydraopt.serve.limits import IDLE_SECONDS, OwnHosts, limited

    app: Callable[..., Awaitable[None]] = OwnHosts(make_app(known), (host,))
    config = uvicorn.Config(
        app,
        log_level="warning",
        http=limited(64),
        ws="none",
        lifespan="off",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return uvicorn.Server(config)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{text!r} is no count")
    return int(text)


def _text(value: Any) -> str:
    return json.dumps(compact(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
