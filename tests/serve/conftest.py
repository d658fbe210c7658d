"""The small model with four tasks behind a real server on a free port."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from hydraopt import attach
from hydraopt.serve import Limits, Reload, make_server
from hydraopt.serve.engine import ModelEngine
from tests.runtime.conftest import bundle_of
from tests.small_model import tiny_speaker

__all__ = ["bundle_of"]

TASKS = ("de", "en", "es", "fr")
BASE = "tiny"


class Hurried:
    """asyncio, but that uvicorn looks ten times as often whether it is to end."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


@pytest.fixture(scope="session", autouse=True)
def _hurried() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.server.asyncio", Hurried())
        yield


@pytest.fixture(scope="session")
def wild() -> tuple[Any, Any]:
    """(model, tokenizer) of random weights large enough that each task says something else."""
    model, tokenizer = tiny_speaker(512)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.3, generator=generator)
    model.requires_grad_(False)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return model, tokenizer


@dataclass
class Running:
    """A server under test."""

    address: str
    engine: ModelEngine
    server: Any
    clients: list[Any] = field(default_factory=list)

    def client(self, **options: Any) -> Any:
        from openai import OpenAI

        settings = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        self.clients.append(OpenAI(base_url=f"{self.address}/v1", **settings))
        return self.clients[-1]


@pytest.fixture(scope="session")
def serve(wild: tuple[Any, Any], bundle_of: Callable[[str], Path]) -> Callable[..., Any]:
    """Start a server: serve(limits, api_key=...); a context manager of Running.

    bundle: a file to serve, and to load again, instead of the usual tasks. tokenizer: instead of
    the usual one. Others as make_server's.
    """

    @contextmanager
    def running(
        limits: Limits | None = None,
        api_key: str | None = None,
        bundle: Path | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> Iterator[Running]:
        model, usual = wild
        tokenizer = tokenizer or usual
        with attach(model, bundle or bundle_of("all"), cache_bytes=0) as attached:
            engine = ModelEngine(model, tokenizer, attached, limits)
            if bundle is not None:
                options["reload"] = Reload(engine, BASE, [str(bundle)], 0)
            server = make_server(engine, BASE, "127.0.0.1", 0, api_key, **options)
            thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
            thread.start()
            try:
                until(lambda: server.started or not thread.is_alive())
                port = server.servers[0].sockets[0].getsockname()[1]
                found = Running(f"http://127.0.0.1:{port}", engine, server)
                yield found
                for client in found.clients:
                    client.close()
            finally:
                server.should_exit = True
                thread.join(30)
                # After a reload it is another than was attached above.
                engine._attached.detach()
            assert not thread.is_alive()
            until(lambda: not engine.alive)

    return running


@dataclass(frozen=True)
class Reply:
    """What came back of a plain request."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def plain(address: str, body: Any = None, *, kind: str = "application/json") -> Reply:
    """GET, or POST of a body (JSON unless it is bytes), whatever the status."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return Reply(reply.status, reply.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read().decode())


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for it. Fails if it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def offline(
    wild: tuple[Any, Any], bundle: Path, task: str | None, prompt: str, most: int
) -> tuple[str, Sequence[int]]:
    """(text, tokens) that transformers' generate gives with the task alone."""
    model, tokenizer = wild
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with attach(model, bundle) as attached, attached.task(task):
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out, skip_special_tokens=True), out
