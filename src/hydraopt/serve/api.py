"""OpenAI's HTTP interface over an engine, and its counters for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from hydraopt.errors import TaskNotFoundError
from hydraopt.serve.engine import ModelEngine, ReloadError
from hydraopt.serve.jobs import Answer, ClosedError, GenerationJob, Limits, Piece, QueueFullError
from hydraopt.serve.messages import (
    ApiError,
    BaseRequest,
    ChatRequest,
    CompletionRequest,
    LongPromptError,
    PromptReader,
    Reply,
    event,
    model_list,
    model_of,
    usage_of,
)
from hydraopt.serve.rows import UNREADABLE

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _Load(Collector):
    """Gauges read from the engine when they are asked for."""

    def __init__(self, load: Callable[[], Mapping[str, int]]) -> None:
        self._load = load

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self._load().items():
            yield GaugeMetricFamily(f"hydraopt_{name}", name.replace("_", " "), value=value)


class Metrics:
    """Counters of one server, in a registry of its own. model labels are names that exist."""

    def __init__(self, load: Callable[[], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Load(load))
        self.requests = Counter(
            "hydraopt_requests", "answered", ["model", "end"], registry=self._registry
        )
        self.tokens = Counter(
            "hydraopt_tokens", "read or written", ["model", "kind"], registry=self._registry
        )
        self.seconds = Histogram(
            "hydraopt_request_seconds",
            "from arrival to end",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first = Histogram(
            "hydraopt_first_text_seconds",
            "from arrival to the first text",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return the metrics in the exposition format."""
        return generate_latest(self._registry)


_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; chats go on to the limit."""

_STOP_SECONDS = 2.0
"""Seconds to wait for the engine's last step, when all answers have ended."""

R = TypeVar("R", bound=BaseRequest)


def make_app(
    engine: ModelEngine,
    base_name: str,
    api_key: str | None = None,
    reload: Callable[[], Sequence[str]] | None = None,
) -> FastAPI:
    """Build the application, which starts the engine, and stops it when the application ends.

    base_name: name by which requests ask for the base model.
    api_key: key required for everything but /health, if given.
    reload: function for POST /reload; it blocks and returns the tasks that are served then.
    """
    metrics = Metrics(engine.load)
    service = _Service(engine, base_name, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop, _STOP_SECONDS)

    # Pages about the interface would be there without a key.
    app = FastAPI(title="hydraopt", lifespan=lifespan, openapi_url=None)
    keyed = [Depends(_guard(api_key))]

    _add_refusals(app)

    @app.get("/health")
    async def health() -> Response:
        alive = engine.alive
        status = "ok" if alive else "the engine is not running"
        return JSONResponse({"status": status}, 200 if alive else 503)

    @app.get("/metrics", dependencies=keyed)
    async def counted() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _add_reload(app, service, reload, keyed)
    _add_answers(app, service, engine.limits, keyed)
    return app


def _guard(api_key: str | None) -> Callable[[HttpRequest], None]:
    """Return a function that refuses requests without the API key, if there is a key."""

    def guard(request: HttpRequest) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = scheme.lower() == "bearer" and api_key is not None
        key = (api_key or "").encode()
        if api_key is not None and not (hmac.compare_digest(given.strip().encode(), key) and known):
            raise ApiError(401, "no such API key", "invalid_api_key")

    return guard


def _add_reload(
    app: FastAPI,
    service: _Service,
    reload: Callable[[], Sequence[str]] | None,
    keyed: Sequence[Any],
) -> None:
    @app.post("/reload", dependencies=keyed)
    async def reloaded(request: HttpRequest) -> Response:
        _check_kind(request)
        if reload is None:
            raise ApiError(409, "this server has no files to load again", "reload_refused")
        try:
            tasks = await asyncio.to_thread(reload)
        except ReloadError as error:
            raise ApiError(409, str(error), "reload_refused") from error
        except ClosedError as error:
            raise ApiError(503, str(error), "shutting_down") from error
        names = (service.names[0], *tasks)
        return JSONResponse(model_list([service.about(name) for name in names]))


def _add_answers(app: FastAPI, service: _Service, limits: Limits, keyed: Sequence[Any]) -> None:
    @app.get("/v1/models", dependencies=keyed)
    async def models() -> Response:
        return JSONResponse(model_list([service.about(name) for name in service.names]))

    @app.get("/v1/models/{name:path}", dependencies=keyed)
    async def model(name: str) -> Response:
        service.task(name)
        return JSONResponse(service.about(name))

    @app.post("/v1/completions", dependencies=keyed)
    async def completions(request: HttpRequest) -> Response:
        body = await _read(request, CompletionRequest, limits.body_bytes)
        service.task(body.model)
        prompt = await asyncio.to_thread(service.completion_prompt, body)
        usual = min(_COMPLETION_TOKENS, limits.answer_tokens)
        return await service.answer(request, body, prompt, body.max_tokens or usual)

    @app.post("/v1/chat/completions", dependencies=keyed)
    async def chat(request: HttpRequest) -> Response:
        body = await _read(request, ChatRequest, limits.body_bytes)
        service.task(body.model)
        prompt = await asyncio.to_thread(service.chat_prompt, body)
        most = body.max_completion_tokens or body.max_tokens or limits.answer_tokens
        return await service.answer(request, body, prompt, most)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: HttpRequest, error: ApiError) -> Response:
        return _refused(error)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: HttpRequest, error: Any) -> Response:
        text = f"no {request.method} {request.url.path} here"
        return _refused(ApiError(error.status_code, text, "not_found"))


class _Service:
    """Requests to jobs, pieces to replies."""

    def __init__(self, engine: ModelEngine, base_name: str, metrics: Metrics) -> None:
        self._engine, self._metrics, self._base = engine, metrics, base_name
        self._since = int(time.time())
        self._reader = PromptReader(engine.tokenizer, engine.limits.prompt_tokens)

    @property
    def names(self) -> tuple[str, ...]:
        return (self._base, *self._engine.tasks)

    def about(self, name: str) -> dict[str, Any]:
        """Return the description of a model."""
        return model_of(name, self._since, None if name == self._base else self._base)

    def task(self, name: str) -> str | None:
        """Return the engine's name of a model; None is the base."""
        if name not in self.names:
            raise _no_model(name)
        return None if name == self._base else name

    def completion_prompt(self, body: CompletionRequest) -> tuple[int, ...]:
        prompt = body.prompt
        if isinstance(prompt, str):
            return self._tokens(body, prompt, True)
        if isinstance(prompt[0] if prompt else 0, str):
            if len(prompt) > 1:
                raise ApiError(400, "one prompt at a time", "invalid_value", "prompt")
            return self._tokens(body, str(prompt[0]), True)
        size = len(self._engine.tokenizer)
        ids = tuple(int(x) for x in prompt)
        if any(not 0 <= x < size for x in ids):
            raise ApiError(400, f"token ids are from 0 to {size - 1}", "invalid_value", "prompt")
        return ids

    def chat_prompt(self, body: ChatRequest) -> tuple[int, ...]:
        tokenizer = self._engine.tokenizer
        if not tokenizer.chat_template:
            text = (
                "the base model has no chat template; lay the messages out as one text, "
                "and send it to /v1/completions"
            )
            raise ApiError(400, text, "no_chat_template", "messages")
        messages = [{"role": x.role, "content": x.text} for x in body.messages]
        try:
            text = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # templates refuse by whatever their language raises
            raise ApiError(
                400, f"the chat template refuses: {error}", "invalid_value", "messages"
            ) from error
        return self._tokens(body, text, False)

    def _tokens(self, body: BaseRequest, text: str, special: bool) -> tuple[int, ...]:
        """Tokenize a text; called outside the event loop, which long prompts would block."""
        try:
            return self._reader.tokens(text, special)
        except LongPromptError as error:
            raise self._counted(
                body, ApiError(413, str(error), "context_length_exceeded")
            ) from error

    async def answer(
        self, request: HttpRequest, body: BaseRequest, prompt: tuple[int, ...], most: int
    ) -> Response:
        reply = Reply(isinstance(body, ChatRequest), body.model)
        job = self._job(body, prompt, most)
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        count = _Counter(self._metrics, body.model, job)

        def deliver(piece: Piece) -> None:
            count(piece)
            with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        try:
            answer = self._engine.submit(job, deliver)
        except QueueFullError as error:
            raise self._counted(body, ApiError(429, str(error), "queue_full")) from error
        except ClosedError as error:
            raise self._counted(body, ApiError(503, str(error), "shutting_down")) from error
        except TaskNotFoundError as error:  # gone since the request was read
            raise _no_model(body.model) from error
        if body.stream:
            events = self._events(request, body, reply, answer, pieces)
            return StreamingResponse(events, media_type="text/event-stream")
        text = ""
        with _cancelling(request, answer):
            async for piece in self._pieces(answer, pieces):
                text += piece.text
        return JSONResponse(reply.whole(text, piece.reason, usage_of(job, piece)))

    async def _events(
        self,
        request: HttpRequest,
        body: BaseRequest,
        reply: Reply,
        answer: Answer,
        pieces: asyncio.Queue[Piece],
    ) -> AsyncIterator[str]:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        with _cancelling(request, answer):
            try:
                yield event(reply.chunk(None, None))
                async for piece in self._pieces(answer, pieces):
                    yield event(reply.chunk(piece.text, piece.reason))
                if with_usage:
                    yield event(reply.last_chunk(usage_of(answer.job, piece)))
                yield event("[DONE]")
            except ApiError as error:
                yield event(error.body)

    async def _pieces(self, answer: Answer, pieces: asyncio.Queue[Piece]) -> AsyncIterator[Piece]:
        """Yield the pieces up to the last. Raises ApiError if it says that the answer failed."""
        while True:
            piece = await pieces.get()
            if piece.reason == "time":
                limit = f"the answer took longer than {self._engine.limits.seconds:g} s"
                raise ApiError(408, limit, "timeout")
            if piece.reason == "closing":
                raise ApiError(503, "the server is shutting down", "shutting_down")
            if piece.error == UNREADABLE:
                raise ApiError(503, UNREADABLE, "bundle_unreadable")
            if piece.reason == "error":
                raise ApiError(500, piece.error or "failed", "engine_error")
            if piece.reason == "cancelled":
                raise ApiError(499, "the client has gone", "cancelled")
            yield piece
            if piece.reason is not None:
                return

    def _job(self, body: BaseRequest, prompt: tuple[int, ...], most: int) -> GenerationJob:
        task = self.task(body.model)
        limits = self._engine.limits
        if not prompt:
            raise ApiError(400, "the prompt is empty", "invalid_value", "prompt")
        for what, count, limit in (
            ("the prompt has", len(prompt), limits.prompt_tokens),
            ("max_tokens asks for", most, limits.answer_tokens),
        ):
            if count > limit:
                text = f"{what} {count} tokens; at most {limit} are taken"
                raise self._counted(body, ApiError(413, text, "context_length_exceeded"))
        temperature = 1.0 if body.temperature is None else body.temperature
        top_p = 1.0 if body.top_p is None else body.top_p
        return GenerationJob(task, prompt, most, temperature, top_p, body.seed, body.stops)

    def _counted(self, body: BaseRequest, error: ApiError) -> ApiError:
        self._metrics.requests.labels(body.model, error.code).inc()
        return error


class _Counter:
    """Counts one answer's pieces, in the engine's thread: also when nobody reads them any more."""

    def __init__(self, metrics: Metrics, model: str, job: GenerationJob) -> None:
        self._metrics, self._model, self._job = metrics, model, job
        self._arrived, self._begun = time.monotonic(), False

    def __call__(self, piece: Piece) -> None:
        metrics, since = self._metrics, time.monotonic() - self._arrived
        if piece.text and not self._begun:
            self._begun = True
            metrics.first.observe(since)
        if piece.reason is not None:
            metrics.requests.labels(self._model, piece.reason).inc()
            metrics.tokens.labels(self._model, "prompt").inc(len(self._job.prompt))
            metrics.tokens.labels(self._model, "answer").inc(piece.tokens)
            metrics.seconds.observe(since)


async def _read(request: HttpRequest, schema: type[R], most: int) -> R:
    """Read the body, of at most ``most`` bytes, as a request."""
    _check_kind(request)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise ApiError(413, f"the body is larger than {most} bytes", "body_too_large")
    except ClientDisconnect as gone:
        raise ApiError(499, "the client has gone", "cancelled") from gone
    try:
        return schema.model_validate_json(bytes(body))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(x) for x in problem["loc"]) or None
        text = problem["msg"].removeprefix("Value error, ")
        raise ApiError(
            400, f"{where}: {text}" if where else text, "invalid_value", where
        ) from error


def _check_kind(request: HttpRequest) -> None:
    # A page in a browser may send other types to a local port without asking.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json", "unsupported_media_type")


def _no_model(name: str) -> ApiError:
    return ApiError(404, f"no model {name!r}; see /v1/models", "model_not_found", "model")


@contextmanager
def _cancelling(request: HttpRequest, answer: Answer) -> Iterator[None]:
    """Cancel the answer when the client closes the connection, or when the block ends."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answer.cancel()

    watching = asyncio.create_task(gone())
    try:
        yield
    finally:
        watching.cancel()
        answer.cancel()


def _refused(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)
