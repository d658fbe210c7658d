"""What goes wrong for one request, or at the start, stays there and is said."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import torch
from click.testing import CliRunner

from hydraopt.cli.main import cli
from hydraopt.cli.serve import bind
from hydraopt.errors import BundleFormatError, NumericalError, UsageError
from hydraopt.model import RowCache
from hydraopt.serve import Attached, Limits, load_engine, make_server
from hydraopt.serve.engine import ModelEngine
from hydraopt.serve.jobs import GenerationJob
from hydraopt.serve.rows import Sampler
from tests.raising import raises
from tests.serve.conftest import BASE, TASKS, until
from tests.serve.test_server import complete

MESSAGES: Any = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def base(wild: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    for part in wild:
        part.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 1e-3])
def test_the_smallest_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([1.0, 90.0, -90.0, 3.0])
    for top_p in (1.0, 0.5):
        job = GenerationJob("de", (1,), 1, temperature=temperature, top_p=top_p, seed=0)
        assert Sampler(job)(logits) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(temperature: float, wrong: float) -> None:
    logits = torch.tensor([1.0, wrong, 2.0])
    with pytest.raises(NumericalError):
        Sampler(GenerationJob("de", (1,), 1, temperature=temperature))(logits)
    # Some models rule tokens out.
    assert Sampler(GenerationJob("de", (1,), 1))(torch.tensor([1.0, -torch.inf, 2.0])) == 2


@contextmanager
def beside_another(serve: Any) -> Iterator[Any]:
    """A client of a server that answers another request meanwhile, and answers it right.

    The other one takes no step but while a request waits: on a busy machine it would be over before
    that comes.
    """
    with serve() as running, ThreadPoolExecutor(1) as pool:
        client, engine, step = running.client(), running.engine, running.engine._step
        right = complete(client, "de", "go", max_tokens=30).choices[0].text
        # An answer is there before its row goes; counted below, it would stand for the other one.
        until(lambda: engine.load()["running"] == 0)
        free = threading.Event()

        def held() -> None:
            until(lambda: free.is_set() or engine.load()["waiting"])
            step()

        engine._step = held
        try:
            going = pool.submit(complete, client, "de", "go", max_tokens=30)
            until(lambda: engine.load()["running"] == 1)
            yield client
        finally:
            free.set()
        assert going.result().choices[0].text == right


def test_a_row_that_fails_takes_no_other_with_it(serve, monkeypatch) -> None:
    draw = Sampler.__call__

    def some(self: Sampler, logits: torch.Tensor) -> int:
        if self._job.task == "en":
            raise RuntimeError("no")
        return draw(self, logits)

    monkeypatch.setattr(Sampler, "__call__", some)
    with (
        beside_another(serve) as client,
        pytest.raises(openai.InternalServerError),
    ):
        complete(client, "en")


def test_no_request_is_lost_when_rows_cannot_be_joined(serve, monkeypatch) -> None:
    with beside_another(serve) as client, monkeypatch.context() as patch:
        patch.setattr(RowCache, "join", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError):
            complete(client, "en")


def test_rows_outlive_a_join_that_fails(wild) -> None:
    one, two = RowCache(wild[0]), RowCache(wild[0])
    with torch.inference_mode():
        one.start([(1, 2, 3)])
        two.start([(4,)])
        mask, layers = one.mask, list(one._layers)
        two._layers[-1] = (two._layers[-1][0][..., :1], two._layers[-1][1])
        with pytest.raises(RuntimeError):
            one.join(two)
        assert one.mask is mask
        assert one._layers == layers
        one.step([5])


def test_a_client_that_goes_in_its_body_is_no_error(serve, logged, monkeypatch) -> None:
    with serve() as running:
        # What the server logs does not reach the root by itself.
        monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
        host, port = running.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            head += "content-type: application/json\r\n"
            connection.sendall(f'{head}content-length: 100\r\n\r\n{{"model"'.encode())
            time.sleep(0.1)
        assert complete(running.client(), "de").choices
    assert not any("Exception in ASGI" in x for x in logged.messages)


def test_what_comes_while_shutting_down_is_503(serve) -> None:
    with serve() as running:
        running.engine._closed = True
        with pytest.raises(openai.InternalServerError) as caught:
            complete(running.client(), "de")
        assert caught.value.status_code == 503


def test_a_base_without_a_chat_template_says_so(serve, wild, monkeypatch) -> None:
    monkeypatch.setattr(wild[1], "chat_template", None)
    with serve() as running:
        client = running.client()
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="de", messages=MESSAGES)


def test_a_template_that_refuses_is_400(serve, wild, monkeypatch) -> None:
    monkeypatch.setattr(wild[1], "chat_template", "{{ raise_exception('roles must alternate') }}")
    with serve() as running:
        client = running.client()
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="de", messages=MESSAGES)


def test_an_engine_has_answered_with_every_task_before_it_starts(base, bundle_of, monkeypatch):
    limits = Limits(prompt_tokens=100, answer_tokens=100)
    engine = load_engine(base, [str(bundle_of("all"))], limits)
    assert engine.tasks == TASKS
    assert engine._attached.active == (None,)
    step = RowCache.step

    def some(self: RowCache, tokens: Any) -> Any:
        if engine._attached.active == ("es",):
            raise IndexError("no such layer")
        return step(self, tokens)

    monkeypatch.setattr(RowCache, "step", some)
    with raises(UsageError, got="IndexError: no such layer"):
        engine.try_all()


def test_what_the_base_cannot_hold_is_refused(base, bundle_of) -> None:
    with pytest.raises(UsageError):
        load_engine(base, [str(bundle_of("all"))], Limits())
    with pytest.raises(UsageError):
        load_engine(base, [str(bundle_of("all"))], Limits(), device="nowhere")


def test_a_base_may_not_be_called_as_a_task(serve) -> None:
    with serve() as running, pytest.raises(UsageError):
        make_server(running.engine, TASKS[0], "127.0.0.1", 0)
    assert BASE not in TASKS


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_said_at_once(host: str, tmp_path: Path) -> None:
    try:
        taken = bind(host, 0)
    except UsageError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError):
            bind(host, port)
        # Nothing was loaded: there is no such base.
        command = ["serve", "./none", str(tmp_path / "no"), "--host", host, "--port", str(port)]
        said = CliRunner().invoke(cli, command)
    assert said.exit_code == 2
    assert str(port) in said.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seconds", "inf", "--seconds"),
        ("--seconds", "nan", "--seconds"),
        ("--rows", "0", "--rows"),
        ("--answer-tokens", "0", "--answer-tokens"),
        ("--port", "99999", "is not in the range"),
        ("--host", "0.0.0.0", "needs an API key"),
    ],
)
def test_options_that_make_no_sense(option: str, value: str, message: str) -> None:
    said = CliRunner().invoke(cli, ["serve", "./none", "b", option, value])
    assert said.exit_code == 2
    assert message in " ".join(said.stderr.split())


def test_a_task_that_cannot_be_read_fails_no_other_request(serve, monkeypatch) -> None:
    real = Attached.set_tasks

    def some(self: Attached, names: Sequence[str | None]) -> None:
        if "en" in names:
            raise BundleFormatError("the file changed")
        real(self, names)

    with serve() as running, ThreadPoolExecutor(2) as pool:
        client, engine = running.client(), running.engine
        right = complete(client, "de", "go", max_tokens=5).choices[0].text
        until(lambda: engine.load()["running"] == 0)
        monkeypatch.setattr(Attached, "set_tasks", some)
        together, admit = threading.Event(), engine._admit

        def held() -> None:
            until(lambda: together.is_set() or engine.load()["waiting"] == 2)
            together.set()
            admit()

        engine._admit = held
        asked = [pool.submit(complete, client, x, "go", max_tokens=5) for x in ("en", "de")]
        with pytest.raises(openai.InternalServerError) as caught:
            asked[0].result()
        assert caught.value.status_code == 503
        assert asked[1].result().choices[0].text == right


def test_rows_under_way_go_on_without_a_task_that_is_gone() -> None:
    told: list[tuple[str, str | None]] = []

    def row(task: str) -> Any:
        deliver = lambda piece: told.append((task, piece.reason))  # noqa: E731
        answer = SimpleNamespace(task=task, deliver=deliver)
        return SimpleNamespace(answer=answer, reason=None, tokens=3)

    engine, kept = object.__new__(ModelEngine), []
    engine._rows = [row("de"), row("en"), row("fr")]
    engine._batch = SimpleNamespace(keep=kept.append)  # type: ignore[assignment]
    selected = []

    def select(answers: Sequence[Any]) -> None:
        if any(x.task == "en" for x in answers):
            raise BundleFormatError("the file changed")
        selected.append([x.task for x in answers])

    engine._select = select  # type: ignore[method-assign]
    engine._select_rows()
    assert told == [("en", "error")]
    assert kept == [[0, 2]]
    assert selected[-1] == ["de", "fr"]
    engine._rows = [row("en")]
    before = len(selected)
    engine._select_rows()
    assert (engine._rows, len(selected)) == ([], before)
