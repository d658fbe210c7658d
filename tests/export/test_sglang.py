"""Tasks in a running SGLang server, at a stand-in for its endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import read_adapter
from hydraopt.errors import (
    BaseMismatchError,
    BundleFormatError,
    ExportError,
    RemoteError,
    TaskNotFoundError,
    UsageError,
)
from hydraopt.export.servants import SglangServer
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs
from tests.remote.servers import serving


@dataclass
class Sglang:
    """State of the server: adapters by name, and requests as (path, body).

    models: what it answers instead of its list of models.
    """

    address: str = ""
    base: str = "org/tiny"
    key: str = ""
    models: Any = None
    adapters: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and JSON as SGLang's http_server.py does."""
        self.requests.append((path, body))
        if path == "/v1/models" and self.models is not None:
            return 200, self.models
        if path == "/v1/models":
            cards = [{"id": self.base, "root": self.base, "parent": None}]
            cards += [
                {"id": name, "root": folder, "parent": self.base}
                for name, folder in self.adapters.items()
            ]
            return 200, {"object": "list", "data": cards}
        name, loads = body["lora_name"], path == "/load_lora_adapter"
        if loads == (name in self.adapters):
            return 400, {"success": False, "error_message": f"wrong state of {name}"}
        if not loads:
            del self.adapters[name]
            return 200, {"success": True, "loaded_adapters": self.adapters}
        config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
        if config["r"] > 16:
            return 400, {"success": False, "error_message": "incompatible with --max-lora-rank"}
        self.adapters[name] = body["lora_path"]
        return 200, {"success": True, "loaded_adapters": self.adapters}


@pytest.fixture
def server() -> Iterator[Sglang]:
    state = Sglang()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            allowed = not state.key or self.headers.get("Authorization") == f"Bearer {state.key}"
            status, said = state.answer(self.path, body) if allowed else (401, {"error": "no key"})
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    with serving(Handler) as state.address:
        yield state


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks "de" and "fr", and "head", which SGLang cannot hold, on "org/tiny"."""
    monkeypatch.setenv("HYDRAOPT_VLLM_CACHE", str(tmp_path / "cache"))
    made = [write_adapter(tmp_path / name, pairs(i)) for i, name in enumerate(("de", "fr"))]
    extras = {"base_model.model.score.weight": np.ones((2, 32), np.float32)}
    made.append(write_adapter(tmp_path / "head", pairs(2), extras=extras))
    return bundled(tmp_path, *made).path


def test_a_task_is_loaded_once(server: Sglang, bundle: Path) -> None:
    tasks = SglangServer(server.address, bundle)
    assert tasks.load("de") == "org/tiny:de"
    assert tasks.load("de") == "org/tiny:de"
    assert [path for path, _ in server.requests].count("/load_lora_adapter") == 1
    adapter = read_adapter(server.adapters["de"])
    for path, module in read_adapter(bundle.parent / "de").modules.items():
        found = np.matmul(*adapter.modules[path].factors())
        np.testing.assert_allclose(found, np.matmul(*module.factors()), atol=1e-4)
    server.adapters.clear()  # the server was started again
    tasks.load("de")
    assert set(server.adapters) == {"de"}


def test_a_changed_task_replaces_the_loaded_one(server: Sglang, bundle: Path) -> None:
    tasks = SglangServer(server.address, bundle)
    tasks.load("de")
    before = server.adapters["de"]
    bundled(bundle.parent, write_adapter(bundle.parent / "new" / "de", pairs(7)))
    tasks.load("de")
    assert server.adapters["de"] != before
    assert [x for x, _ in server.requests if "models" not in x] == [
        "/load_lora_adapter",
        "/unload_lora_adapter",
        "/load_lora_adapter",
    ]


def test_what_cannot_be_loaded_is_refused(server: Sglang, bundle: Path) -> None:
    tasks = SglangServer(server.address, bundle)
    with pytest.raises(TaskNotFoundError):
        tasks.load("es")
    with pytest.raises(ExportError):
        tasks.load("head")
    server.base = "org/another"
    with pytest.raises(BaseMismatchError):
        tasks.load("de")
    assert server.adapters == {}
    name = SglangServer(server.address, bundle, any_base=True).load("de")
    assert name == "org/another:de"


def test_errors_of_the_server_are_reported(server: Sglang, bundle: Path, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).standard_normal((40, 17))
    made = write_adapter(tmp_path / "wide", {"model.layers.0.self_attn.q_proj": (wide, wide.T)})
    (tmp_path / "big").mkdir()
    big = bundled(tmp_path / "big", made, step=4096).path
    with pytest.raises(RemoteError) as caught:
        SglangServer(server.address, big).load("wide")
    assert "--max-lora-rank" in str(caught.value.got)
    server.key = "secret"
    with pytest.raises(RemoteError):
        SglangServer(server.address, bundle).load("de")
    assert SglangServer(server.address, bundle, key="secret").load("de") == "org/tiny:de"
    with pytest.raises(RemoteError):
        SglangServer("http://127.0.0.1:1", bundle).load("de")
    with pytest.raises(UsageError):
        SglangServer("127.0.0.1:30000", bundle)
    with pytest.raises(BundleFormatError):
        SglangServer(server.address, tmp_path / "none.hydra.safetensors")


@pytest.mark.parametrize("models", [[], {}, {"data": []}, {"data": [{"id": "a", "parent": "b"}]}])
def test_a_list_of_models_of_another_shape_is_refused(
    server: Sglang, bundle: Path, models: Any
) -> None:
    server.models = models
    with pytest.raises(RemoteError):
        SglangServer(server.address, bundle).load("de")
    assert not server.adapters
