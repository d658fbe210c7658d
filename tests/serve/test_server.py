"""The server, as the openai client sees it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from hydraopt.errors import UsageError
from hydraopt.serve import Limits, check_key
from hydraopt.serve.limits import is_loopback
from tests.serve.conftest import BASE, TASKS, offline, plain, until

MODELS = (BASE, *TASKS)


def complete(client: Any, model: str, prompt: Any = "x", **options: Any) -> Any:
    settings = {"max_tokens": 12, "temperature": 0, **options}
    return client.completions.create(model=model, prompt=prompt, **settings)


def test_models(serve) -> None:
    with serve() as running:
        client = running.client()
        assert [x.id for x in client.models.list()] == list(MODELS)
        assert client.models.retrieve("de").parent == BASE
        with pytest.raises(openai.NotFoundError, match="'nl'"):
            client.models.retrieve("nl")


def test_every_request_has_its_own_tasks_answer(serve, wild, bundle_of) -> None:
    """25 at a time, of all tasks, lengths and ends; each equals generate() with its task alone."""
    bundle = bundle_of("all")
    prompts = [("ab" * (1 + j % 7) + str(j % 3), 3 + j % 11) for j in range(5)]
    asked = [(MODELS[i % 5], *prompts[i // 5]) for i in range(25)]
    right = {x: offline(wild, bundle, None if x[0] == BASE else x[0], *x[1:]) for x in set(asked)}
    at_once: dict[tuple[str, int], set[str]] = {}
    for x in asked:
        at_once.setdefault(x[1:], set()).add(right[x][0])
    with serve(Limits(rows=9)) as running, ThreadPoolExecutor(25) as pool:
        client = running.client()
        got = list(pool.map(lambda x: complete(client, x[0], x[1], max_tokens=x[2]), asked))
        steps = running.engine.load()["steps"]
    for x, reply in zip(asked, got, strict=True):
        text, tokens = right[x]
        (choice,) = reply.choices
        assert choice.text == text, x
        assert choice.finish_reason == ("stop" if tokens[-1] == 2 else "length")
        assert reply.usage.completion_tokens == len(tokens)
        assert reply.usage.prompt_tokens == len(wild[1](x[1])["input_ids"])
        assert reply.model == x[0]
    # The tasks say different things to one prompt, so a wrong task's answer would be seen.
    assert sum(map(len, at_once.values())) > 3 * len(at_once)
    assert steps < sum(len(tokens) for _, tokens in right.values())  # they were batched


def test_streaming_equals_not_streaming(serve) -> None:
    with serve() as running:
        client = running.client()
        for model in MODELS[:2]:
            whole = complete(client, model, "stream", max_tokens=24)
            options = {"stream": True, "stream_options": {"include_usage": True}}
            chunks = list(complete(client, model, "stream", max_tokens=24, **options))
            assert "".join(x.choices[0].text for x in chunks if x.choices) == whole.choices[0].text
            assert chunks[-1].usage == whole.usage
            assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
            assert len(chunks) > 5
            messages: Any = [{"role": "user", "content": "stream"}]
            same = {"model": model, "messages": messages, "max_tokens": 12, "temperature": 0}
            chat = client.chat.completions.create(**same)
            parts = list(client.chat.completions.create(**same, stream=True))
            assert parts[0].choices[0].delta.role == "assistant"
            text = "".join(x.choices[0].delta.content or "" for x in parts)
            assert text == chat.choices[0].message.content


def test_a_chat_is_its_template(serve) -> None:
    with serve() as running:
        client = running.client()
        parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
        messages: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
        chat = client.chat.completions.create(
            model="fr", messages=messages, max_completion_tokens=9, temperature=0
        )
        # The template has no BOS; token ids go in as they are.
        ids = running.engine.tokenizer("system: s\nuser: hi\nassistant:", add_special_tokens=False)
        same = complete(client, "fr", ids["input_ids"], max_tokens=9)
        assert chat.choices[0].message.content == same.choices[0].text
        assert chat.usage == same.usage


def test_stop_texts_end_an_answer(serve) -> None:
    with serve() as running:
        client = running.client()
        for model in MODELS[:2]:
            text = complete(client, model, "stop", max_tokens=16).choices[0].text
            for stop in (text[5:8], text[3:4], ["never there", text[10:12], text[6:9]]):
                each = [stop] if isinstance(stop, str) else stop
                cut = min(text.find(x) for x in each if x in text)
                for stream in (False, True):
                    reply = complete(client, model, "stop", max_tokens=16, stop=stop, stream=stream)
                    chunks = list(reply) if stream else [reply]
                    assert "".join(x.choices[0].text for x in chunks) == text[:cut]
                    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.slow
def test_a_seed_repeats_an_answer_in_any_company(serve) -> None:
    with serve() as running, ThreadPoolExecutor(8) as pool:
        client = running.client()

        def drawn(seed: int | None) -> str:
            settings = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 24, "seed": seed}
            text: str = complete(client, "de", "draw", **settings).choices[0].text
            return text

        alone = drawn(5)
        assert list(pool.map(drawn, [5, 1, 5, 2, 5, 3])).count(alone) == 3
        assert len({drawn(None) for _ in range(3)}) == 3
        greedy = complete(client, "de", "draw", max_tokens=24).choices[0].text
        assert (
            complete(client, "de", "draw", max_tokens=24, temperature=1, top_p=0).choices[0].text
            == greedy
        )


BAD: list[tuple[dict[str, Any], str, str | None]] = [
    ({"n": 2}, "n is not supported", None),
    ({"n": True}, "n is not supported", None),
    ({"logprobs": 3}, "logprobs is not supported", None),
    ({"best_of": 4}, "best_of is not supported", None),
    ({"echo": True}, "echo is not supported", None),
    ({"presence_penalty": 0.5}, "presence_penalty is not supported", None),
    ({"temperature": -1}, "greater than or equal to 0", "temperature"),
    ({"temperature": "hot"}, "valid number", "temperature"),
    ({"top_p": 1.5}, "less than or equal to 1", "top_p"),
    ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
    ({"stop": ["a"] * 5}, "at most 4 stop texts", "stop"),
    ({"stop": ""}, "at least 1 character", "stop.constrained-str"),
    ({"prompt": ""}, "prompt is empty", "prompt"),
    ({"prompt": []}, "prompt is empty", "prompt"),
    ({"prompt": ["a", "b"]}, "one prompt at a time", "prompt"),
    ({"prompt": [5, 99999]}, "token ids are from 0", "prompt"),
    ({"prompt": [-1]}, "token ids are from 0", "prompt"),
    ({"colour": "red"}, "Extra inputs are not permitted", "colour"),
    ({"model": None}, "valid string", "model"),
]


@pytest.mark.parametrize(("change", "text", "param"), BAD)
def test_bad_requests_are_refused_in_openais_shape(bad_server, change, text, param) -> None:
    body = {"model": "de", "prompt": "x", **change}
    reply = plain(f"{bad_server.address}/v1/completions", body)
    assert reply.status == 400
    (error,) = reply.json().values()
    assert text in error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.fixture(scope="module")
def bad_server(serve) -> Any:
    # One server for all bad requests, which also have to leave it well.
    with serve() as running:
        yield running
        assert complete(running.client(), "de").usage.completion_tokens > 0


def test_what_is_no_request_is_refused(bad_server) -> None:
    address = f"{bad_server.address}/v1/completions"
    asked = {"model": "de", "prompt": "x"}
    cases: list[tuple[Any, int, str]] = [
        (b"{", 400, "Invalid JSON"),
        ([1], 400, "Input should be"),
        ({**asked, "model": "nl"}, 404, "no model 'nl'"),
        ({**asked, "prompt": "y" * (2 << 20)}, 413, "larger than"),
        ({**asked, "prompt": "y" * 3000}, 413, "the prompt has 300"),
        ({**asked, "max_tokens": 5000}, 413, "max_tokens asks for 5000"),
    ]
    for body, status, text in cases:
        reply = plain(address, body)
        assert (reply.status, text in reply.text) == (status, True), reply.text
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert plain(address, asked, kind="text/plain").status == 415
    assert plain(address).status == 405
    nowhere = plain(f"{bad_server.address}/v1/embeddings")
    assert nowhere.status == 404
    assert "no GET /v1/embeddings" in nowhere.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError):
        bad_server.client().chat.completions.create(
            model="de",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )


def slowly(engine: Any, seconds: float) -> None:
    """Make each step of the engine take so long."""
    step = engine._step

    def slow() -> None:
        time.sleep(seconds)
        step()

    engine._step = slow


@contextmanager
def held(engine: Any, after: int = 1) -> Iterator[None]:
    """Let each answer stand after so many steps of the engine, until the block ends.

    Requests and other bundles are still taken: nothing here depends on who is faster.
    """
    step, free = engine._step, threading.Event()
    steps = 0

    def wait() -> None:
        nonlocal steps
        if steps < after or free.is_set():
            step()
            steps += 1
        else:
            time.sleep(0.001)

    engine._step = wait
    try:
        yield
    finally:
        free.set()


def test_a_full_queue_is_429(serve) -> None:
    with serve(Limits(rows=1, queue=1)) as running, ThreadPoolExecutor(2) as pool:
        client = running.client()
        with held(running.engine):
            first = pool.submit(complete, client, "de", "go", max_tokens=25)
            until(lambda: running.engine.load()["running"] == 1)
            second = pool.submit(complete, client, "fr", "go", max_tokens=2)
            until(lambda: running.engine.load()["waiting"] == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                complete(client, "en")
        assert caught.value.response.headers["retry-after"]
        assert first.result().usage.completion_tokens > 2
        assert second.result().usage.completion_tokens <= 2


@pytest.mark.slow
def test_a_late_answer_is_408(serve) -> None:
    with serve(Limits(rows=1, seconds=0.3)) as running, ThreadPoolExecutor(2) as pool:
        slowly(running.engine, 0.05)
        client = running.client()
        both = [pool.submit(complete, client, x, "go", max_tokens=200) for x in ("de", "en")]
        for future in both:
            with pytest.raises(openai.APIStatusError, match=r"0\.3") as caught:
                future.result()
            assert caught.value.status_code == 408
        with pytest.raises(openai.APIError, match=r"0\.3"):
            list(complete(client, "de", "go", max_tokens=200, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_its_answer(serve, stream) -> None:
    with serve() as running:
        slowly(running.engine, 0.02)
        body = {"model": "de", "prompt": "go", "max_tokens": 1000, "temperature": 0}
        connection = http.client.HTTPConnection(running.address.removeprefix("http://"))
        connection.request(
            "POST",
            "/v1/completions",
            json.dumps({**body, "stream": stream}),
            {"content-type": "application/json"},
        )
        if stream:
            connection.getresponse().readline()
        until(lambda: running.engine.load()["running"] == 1)
        connection.close()
        until(lambda: running.engine.load()["running"] == 0, 5)
        assert running.engine.load()["steps"] < 300
        line = 'hydraopt_requests_total{end="cancelled",model="de"} 1.0'
        until(lambda: line in plain(f"{running.address}/metrics").text)


def test_one_failure_does_not_end_the_server(serve, monkeypatch) -> None:
    with serve() as running:
        client = running.client()
        batch = type(running.engine._batch)
        with monkeypatch.context() as patch:
            patch.setattr(batch, "step", lambda *_: 1 / 0)
            with pytest.raises(openai.InternalServerError):
                complete(client, "de")
        assert complete(client, "de").choices


def test_health_and_metrics(serve) -> None:
    with serve() as running:
        complete(running.client(), "de", max_tokens=5)
        assert plain(f"{running.address}/health").json() == {"status": "ok"}
        text = plain(f"{running.address}/metrics").text
        for line in (
            'hydraopt_requests_total{end="length",model="de"} 1.0',
            'hydraopt_tokens_total{kind="answer",model="de"} 5.0',
            "hydraopt_waiting 0.0",
            "hydraopt_request_seconds_count 1.0",
        ):
            assert line in text
        assert float(text.split("hydraopt_shared_bytes ")[-1].split()[0]) > 0


def test_a_key_is_asked_for(serve) -> None:
    with serve(api_key="secret") as running:
        assert complete(running.client(api_key="secret"), "de").choices
        for key in ("wrong", "secret2"):
            with pytest.raises(openai.AuthenticationError):
                complete(running.client(api_key=key), "de")
        assert plain(f"{running.address}/metrics").status == 401
        assert plain(f"{running.address}/v1/models").status == 401
        assert plain(f"{running.address}/health").status == 200


def test_others_need_a_key() -> None:
    assert [is_loopback(x) for x in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(UsageError):
            check_key(host, None)
        check_key(host, "k")
    with pytest.raises(UsageError):
        check_key("127.0.0.1", "")


@pytest.mark.slow
def test_the_command_serves_and_a_signal_drains_it(wild, bundle_of, tmp_path) -> None:
    model, tokenizer = wild
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    code = (
        "import time; from hydraopt.serve.engine import ModelEngine; step = ModelEngine._step\n"
        "ModelEngine._step = lambda self: (time.sleep(0.03), step(self))\n"
        "from hydraopt.cli.main import main; main()"
    )
    limits = ["--answer-tokens", "200", "--prompt-tokens", "200", "--threads", "1"]
    command = [sys.executable, "-c", code, "serve", str(tmp_path / "base")]
    command += [str(bundle_of("all")), "--port", "0", "--json", *limits]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        about = json.loads("".join(lines))
        assert about["models"] == ["tiny", *TASKS]
        client = openai.OpenAI(base_url=about["address"], api_key="none", max_retries=0)
        for _ in range(200):
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.05)
        chunks = iter(complete(client, "de", "go", max_tokens=40, stream=True))
        next(chunks)
        os.kill(process.pid, signal.SIGTERM)
        rest = list(chunks)
        assert rest[-1].choices[0].finish_reason in ("length", "stop")
        text, _ = offline(wild, bundle_of("all"), "de", "go", 40)
        assert "".join(x.choices[0].text for x in rest) == text
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, "Traceback" in errors) == (0, False)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    finally:
        process.kill()
        process.communicate()
