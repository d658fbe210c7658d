"""Addresses where no Ray cluster is: refused before Ray tries them, which it does for minutes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hydraopt import merge
from hydraopt.errors import UsageError
from hydraopt.merging import OnRay
from tests.merging.merge_cases import modules_of

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


class Asked(Exception):
    """Ray was to connect."""


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The addresses that Ray was to connect to."""
    addresses: list[object] = []

    def init(**about: Any) -> None:
        addresses.append(about["address"])
        raise Asked

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return addresses


@pytest.fixture
def port() -> Iterator[int]:
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "[::1]:{}", "x.invalid:{}"]
)
def test_nothing_listens(address: str, closed: int, asked: list[object]) -> None:
    for act in (lambda x: x.most(), lambda x: x.pool(1, lambda: None)):
        with pytest.raises(UsageError) as no:
            act(OnRay(address.format(closed)))
        assert address.format(closed) in str(no.value)
    assert asked == []


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:" + "9" * 5000])
def test_no_port(address: str, asked: list[object]) -> None:
    with pytest.raises(UsageError):
        OnRay(address).most()
    assert asked == []


def test_the_environment_names_an_address(
    closed: int, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    with pytest.raises(UsageError):
        OnRay().most()
    assert asked == []


def test_what_may_be_a_cluster_is_ray_s_to_say(port: int, asked: list[object]) -> None:
    """What Ray cannot connect to then is an error of the same kind."""
    for address in (f"127.0.0.1:{port}", f"ray://localhost:{port}", "auto", None):
        with pytest.raises(UsageError) as no:
            OnRay(address).most()
        assert isinstance(no.value.__cause__, Asked)
        assert asked.pop() == address


def test_a_merge_ends_with_a_refusal(
    make_adapter: Any, tmp_path: Path, closed: int, asked: list[object]
) -> None:
    adapters = [make_adapter(tmp_path / x, modules_of(i)) for i, x in enumerate("ab")]
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "out", size="20%", workers=OnRay(f"127.0.0.1:{closed}"))
    assert asked == []
    assert not (tmp_path / "out").exists()
