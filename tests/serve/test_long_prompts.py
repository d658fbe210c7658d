"""Prompts that are too long cost their server little, and nobody else any time; what is logged."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hydraopt import merge
from hydraopt.serve import Limits, base_name_of
from tests.conftest import Logged, write_adapter
from tests.merging.merge_cases import modules_of
from tests.serve.conftest import plain, until
from tests.serve.test_server import complete

LONG = 480_000


class Watched:
    """A tokenizer that counts what it is given, and waits at a text that is told it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.characters = tokenizer, 0
        self.waits, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **how: Any) -> Any:
        self.characters += len(text)
        if text.startswith("wait"):
            self.waits.set()
            assert self.go_on.wait(30)
        return self._tokenizer(text, **how)


@pytest.mark.parametrize("text", ["ab", "a ", " ", "\u4e2d", "\n"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_beyond_the_limit_is_not_tokenised_whole(
    serve: Any, wild: Any, text: str, chat: bool
) -> None:
    seen = Watched(wild[1])
    content = text * (LONG // len(text.encode("unicode_escape")))
    asked = {"messages": [{"role": "user", "content": content}]} if chat else {"prompt": content}
    with serve(Limits(prompt_tokens=64), tokenizer=seen) as running:
        path = "chat/completions" if chat else "completions"
        before = seen.characters
        reply = plain(f"{running.address}/v1/{path}", {"model": "de", "max_tokens": 2, **asked})
        assert reply.status == 413
        assert reply.json()["error"]["code"] == "context_length_exceeded"
        assert seen.characters - before < LONG / 10
        assert complete(running.client(), "de", max_tokens=2).choices


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_names_that_are_no_models_are_not_counted(serve: Any, path: str) -> None:
    text = "a " * (LONG // 4)
    chat = {"messages": [{"role": "user", "content": text}]}
    asked = {"prompt": text} if path == "completions" else chat
    with serve(Limits(prompt_tokens=64)) as running:
        for model in ("nobody-1", "nobody-2"):
            reply = plain(f"{running.address}/v1/{path}", {"model": model, **asked})
            assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert "nobody" not in plain(f"{running.address}/metrics").text


def test_a_prompt_of_just_the_limit_is_answered(serve) -> None:
    with serve(Limits(prompt_tokens=64)) as running:
        count = len(running.engine.tokenizer("x" * 40)["input_ids"])
        text = "x" * (40 + 64 - count)
        assert len(running.engine.tokenizer(text)["input_ids"]) == 64
        assert complete(running.client(), "de", text, max_tokens=2).usage.prompt_tokens == 64
        reply = plain(f"{running.address}/v1/completions", {"model": "de", "prompt": f"{text}x"})
        assert reply.status == 413


def test_one_text_that_takes_long_holds_up_no_other(serve: Any, wild: Any) -> None:
    seen = Watched(wild[1])
    with serve(tokenizer=seen) as running, ThreadPoolExecutor(1) as pool:
        client = running.client()
        slow = pool.submit(complete, client, "de", "wait", max_tokens=2)
        try:
            until(seen.waits.is_set)
            assert complete(client, "en", "x", max_tokens=2).choices
            assert not slow.done()
        finally:
            seen.go_on.set()
        assert slow.result(30).choices


@pytest.mark.parametrize("stream", [None, False])
def test_options_of_a_stream_need_a_stream(serve, stream: bool | None) -> None:
    asked = {"model": "de", "prompt": "x", "stream_options": {"include_usage": True}}
    asked |= {} if stream is None else {"stream": stream}
    with serve() as running:
        reply = plain(f"{running.address}/v1/completions", asked)
        assert reply.status == 400
        assert reply.json()["error"]["param"] == "stream_options"
        # In any order, and nothing where nothing is asked for.
        for good in ({**asked, "stream": True}, {**asked, "stream_options": None, "stream": False}):
            reply = plain(f"{running.address}/v1/completions", {**good, "max_tokens": 2})
            assert reply.status == 200


def test_each_request_is_logged_and_no_secret_is(serve, logged: Logged) -> None:
    logging.getLogger("hydraopt").setLevel(logging.INFO)
    with serve(api_key="a-secret") as running:
        plain(f"{running.address}/health?token=hidden")
        plain(f"{running.address}/v1/models")
        plain(f"{running.address}/no%0Aline%1b[2J")
        complete(running.client(api_key="a-secret"), "de", "told to nobody", max_tokens=2)
    lines = [x for x in logged.messages if "127.0.0.1" in x]
    assert len(lines) == 4
    for line, words in zip(
        lines, (("/health", "200"), ("/v1/models", "401"), ("404",), ("POST", "200")), strict=True
    ):
        assert all(word in line for word in words), line
        assert line.isprintable()
    text = "\n".join(lines)
    assert not any(x in text for x in ("hidden", "a-secret", "told to nobody"))


def test_the_base_has_the_name_that_bundles_give_it(tmp_path: Path) -> None:
    def of(base: str, number: int) -> list[str]:
        """A bundle of an adapter that names its base so."""
        adapter = write_adapter(tmp_path / f"a{number}", modules_of(0), base=base)
        path = tmp_path / f"{number}.hydra.safetensors"
        merge([adapter], path, error=0.5)
        return [str(path)]

    cache = tmp_path / "models--org--of-the-hub" / "snapshots" / "0123abcd"
    cache.mkdir(parents=True)
    folder = tmp_path / "a-folder"
    folder.symlink_to(cache)
    for place in (cache, folder):
        assert base_name_of(str(place), of("org/Stated-1B", 0)) == "Stated-1B"
    for number, unsaid in enumerate((".", "..", "./", str(cache)), 1):
        assert base_name_of(str(cache), of(unsaid, number)) == "of-the-hub"
    assert base_name_of(str(folder), of(".", 9)) == "a-folder"
