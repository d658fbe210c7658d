"""The LoRA resolver at vLLM's plug-in interface; vLLM itself is stood in for by its interface."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import read_adapter
from hydraopt.bundle import Bundle, split
from hydraopt.errors import BundleFormatError, NotThereError, UsageError
from hydraopt.export import vllm_plugin
from hydraopt.export.servants import ServedBundle
from hydraopt.files import Url
from hydraopt.merging import Limit, merge, remove, rename, replace
from tests.conftest import Logged, write_adapter
from tests.export.targets import bundled, pairs, stacked_experts
from tests.raising import raises
from tests.remote.servers import Web, web_server

LIMIT = Limit(error=0.01)
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class LoRARequest:
    """Fields of vLLM's class, in its order, but for tensorizer's."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError("id must be > 0")
        assert self.lora_path


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


class Registry:
    def __init__(self) -> None:
        self.resolvers: dict[str, LoRAResolver] = {}

    def get_supported_resolvers(self) -> set[str]:
        return set(self.resolvers)

    def register_resolver(self, name: str, resolver: LoRAResolver) -> None:
        assert name not in self.resolvers, "vLLM warns of this"
        self.resolvers[name] = resolver


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """vllm.lora.request and vllm.lora.resolver, as far as a plug-in uses them."""
    found = Registry()
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request",
                                                   "vllm.lora.resolver")}  # fmt: skip
    modules["vllm.lora.request"].LoRARequest = LoRARequest  # type: ignore[attr-defined]
    modules["vllm.lora.resolver"].LoRAResolver = LoRAResolver  # type: ignore[attr-defined]
    modules["vllm.lora.resolver"].LoRAResolverRegistry = found  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("HYDRAOPT_BUNDLE", "HYDRAOPT_VLLM_CACHE", "HYDRAOPT_ANY_BASE", "HYDRAOPT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Tasks "de" and "fr", and "head", which vLLM cannot hold, on "org/tiny"."""
    made = [write_adapter(tmp_path / name, pairs(i)) for i, name in enumerate(("de", "fr"))]
    extras = {"base_model.model.score.weight": np.ones((2, 32), np.float32)}
    made.append(write_adapter(tmp_path / "head", pairs(2), extras=extras))
    return bundled(tmp_path, *made).path


def started(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, bundle: Path, **settings: str
) -> Any:
    monkeypatch.setenv("HYDRAOPT_BUNDLE", str(bundle))
    monkeypatch.setenv("HYDRAOPT_VLLM_CACHE", str(bundle.parent / "cache"))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    vllm_plugin.register()
    vllm_plugin.register()  # vLLM calls it more than once
    return registry.resolvers[vllm_plugin.NAME]


def ask(resolver: Any, name: str, base: str = "/models/tiny") -> LoRARequest | None:
    found: LoRARequest | None = asyncio.run(resolver.resolve_lora(base, name))
    return found


def test_the_entry_point_is_register() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["vllm.general_plugins"]
    module, _, name = entries["hydraopt_lora_resolver"].partition(":")
    assert getattr(import_module(module), name) is vllm_plugin.register


def test_without_the_setting_nothing_is_registered(registry: Registry) -> None:
    vllm_plugin.register()
    assert registry.resolvers == {}


def test_a_task_is_served_from_the_bundle(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, bundle: Path
) -> None:
    resolver = started(monkeypatch, registry, bundle)
    assert isinstance(resolver, LoRAResolver)
    requests = {name: ask(resolver, name) for name in ("de", "fr")}
    for name, request in requests.items():
        assert request is not None
        assert request.lora_name == name
        assert Path(request.lora_path).is_relative_to(bundle.parent / "cache")
        adapter = read_adapter(request.lora_path)
        originals = read_adapter(bundle.parent / name)
        for path, module in originals.modules.items():
            found = np.matmul(*adapter.modules[path].factors())
            np.testing.assert_allclose(found, np.matmul(*module.factors()), atol=1e-4)
    assert len({x.lora_int_id for x in requests.values() if x}) == 2


def test_what_is_exported_is_kept_until_the_bundle_changes(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, bundle: Path
) -> None:
    resolver = started(monkeypatch, registry, bundle)
    first = ask(resolver, "de")
    assert first is not None
    weights = Path(first.lora_path) / "adapter_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert ask(resolver, "de") == first
    assert weights.stat().st_mtime_ns == stamp
    bundled(bundle.parent, write_adapter(bundle.parent / "new" / "de", pairs(7)))
    second = ask(resolver, "de")
    assert second is not None
    assert second.lora_path != first.lora_path


def test_what_it_does_not_have_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
    bundle: Path,
    logged: Logged,
) -> None:
    resolver = started(monkeypatch, registry, bundle)
    for name in ("es", "../de", "", "/etc"):
        assert ask(resolver, name) is None
    assert logged.messages == []
    assert ask(resolver, "de", base="org/another") is None
    assert "HYDRAOPT_ANY_BASE" in logged.messages[-1]
    assert ask(resolver, "head") is None
    assert "score.weight" in logged.messages[-1]


def test_stacked_experts_are_marked(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, tmp_path: Path
) -> None:
    made = [stacked_experts(tmp_path / "moe"), write_adapter(tmp_path / "de", pairs())]
    resolver = started(monkeypatch, registry, bundled(tmp_path, *made).path)
    found = {name: ask(resolver, name) for name in ("moe", "de")}
    assert {name: x.is_3d_lora_weight for name, x in found.items() if x} == {
        "moe": True,
        "de": False,
    }


def test_any_base(monkeypatch: pytest.MonkeyPatch, registry: Registry, bundle: Path) -> None:
    resolver = started(monkeypatch, registry, bundle, HYDRAOPT_ANY_BASE="1")
    assert ask(resolver, "de", base="org/another") is not None


def test_a_damaged_bundle_is_logged_and_a_wrong_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
    bundle: Path,
    logged: Logged,
) -> None:
    resolver = started(monkeypatch, registry, bundle)
    bundle.write_bytes(bundle.read_bytes()[:100])
    assert ask(resolver, "de") is None
    assert "cannot be served" in logged.messages[-1]
    with pytest.raises(BundleFormatError):
        vllm_plugin.register()


# --- from a store ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    adapters = [write_adapter(made / name, pairs(i)) for i, name in enumerate(("de", "fr"))]
    whole = made / "b.hydra.safetensors"
    merge(adapters, whole, error=0.01, forms=["two-sided"], workers=1)
    split(whole, made / "web" / "tiny")
    return made


@pytest.fixture
def served(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The tasks "de" and "fr" as a core, which has bases, and task files, over HTTP."""
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "kept"))
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    with web_server(tmp_path / "web") as web:
        yield web


def at(web: Web, monkeypatch: pytest.MonkeyPatch, registry: Registry, **settings: str) -> Any:
    monkeypatch.setenv("HYDRAOPT_BUNDLE", web.url(core_of(web)))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    vllm_plugin.register()
    return registry.resolvers[vllm_plugin.NAME]


def core_of(web: Web) -> str:
    (core,) = (web.folder / "tiny").glob("*.core.safetensors")
    return f"tiny/{core.name}"


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of bundles whose core is decoded."""
    decoded: list[str] = []
    open_stream = Bundle.open_stream

    def counted(self: Bundle, name: str, *more: Any) -> Any:
        if name == "shared":
            decoded.append(str(self.path))
        return open_stream(self, name, *more)

    monkeypatch.setattr(Bundle, "open_stream", counted)
    return decoded


def test_a_cold_task_of_an_address_costs_its_own_bytes_and_one_decoding(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, served: Web
) -> None:
    resolver = at(served, monkeypatch, registry)
    decoded = decodings(monkeypatch)
    assert ask(resolver, "de") is not None
    served.reset()
    second = ask(resolver, "fr")
    assert second is not None
    own = (served.folder / "tiny" / "fr.task.safetensors").stat().st_size
    assert own <= served.sent <= own + 100  # a byte or a few words for each other question
    assert not any("de.task" in path for path in served.requests)
    assert len(decoded) == 1
    served.reset()
    assert ask(resolver, "fr") == second
    assert len(decoded) == 1
    assert ask(resolver, "es") is None


def test_a_folder_that_lists_nothing_is_served_by_its_index(
    monkeypatch: pytest.MonkeyPatch, served: Web
) -> None:
    bundle = ServedBundle(Url(served.url("tiny/")))
    assert bundle.task("de") is not None
    served.reset()
    assert bundle.task("fr") is not None
    assert served.requests == [f"/{core_of(served)}", "/tiny/fr.task.safetensors"]
    rename(served.folder / "tiny", "fr", "fr2")
    assert bundle.task("fr") is None
    assert bundle.task("fr2") is not None


def test_two_tasks_at_once_decode_the_core_once(
    monkeypatch: pytest.MonkeyPatch, served: Web
) -> None:
    decoded = decodings(monkeypatch)
    bundle = ServedBundle(Url(served.url(core_of(served))))
    tasks = [bundle.task(name) for name in ("de", "fr")]
    for task in tasks:
        assert task is not None
        bundle.decode_core(task)
        task.factors()
    assert len(decoded) == 1


def test_what_is_replaced_at_the_address_is_seen(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, served: Web, tmp_path: Path
) -> None:
    resolver = at(served, monkeypatch, registry)
    first = ask(resolver, "de")
    other = write_adapter(tmp_path / "n" / "de", pairs(7))
    replace(served.folder / "tiny", [other], limit=Limit(lossless=True), same_base=True)
    second = ask(resolver, "de")
    assert first is not None
    assert second is not None
    assert second.lora_path != first.lora_path
    found = read_adapter(second.lora_path)
    for path, module in read_adapter(other).modules.items():
        made = np.matmul(*found.modules[path].factors())
        np.testing.assert_allclose(made, np.matmul(*module.factors()), atol=0.05)


def test_a_change_of_another_task_keeps_what_is_exported(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, bundle: Path, tmp_path: Path
) -> None:
    resolver = started(monkeypatch, registry, bundle)
    first = ask(resolver, "de")
    remove(bundle, ["fr"])
    assert ask(resolver, "de") == first
    assert ask(resolver, "fr") is None


def test_folders_take_no_more_than_their_bound(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, served: Web
) -> None:
    resolver = at(served, monkeypatch, registry, HYDRAOPT_VLLM_CACHE_SIZE="1KB")
    home = Path(os.environ["HYDRAOPT_CACHE"]) / "vllm"
    first, second = (ask(resolver, name) for name in ("de", "fr"))
    assert first is not None
    assert second is not None
    # vLLM reads a folder after it was told of it, so none goes in its first minute.
    assert all(Path(x.lora_path).is_dir() for x in (first, second))
    for folder in home.iterdir():
        if folder.is_dir():
            os.utime(folder, (1, 1))
    third = ask(resolver, "de")
    assert third == first
    rename(served.folder / "tiny", "fr", "fr2")
    assert ask(resolver, "fr2") is not None
    assert not Path(second.lora_path).exists()
    assert Path(first.lora_path).is_dir()


def test_a_wrong_size_or_address_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, served: Web
) -> None:
    with raises(UsageError, got="much"):
        at(served, monkeypatch, registry, HYDRAOPT_VLLM_CACHE_SIZE="much")
    monkeypatch.setenv("HYDRAOPT_BUNDLE", served.url("none.core.safetensors"))
    with pytest.raises(NotThereError):
        vllm_plugin.register()
    monkeypatch.setenv("HYDRAOPT_BUNDLE", f"{served.url(core_of(served))} {served.url('none')}")
    with pytest.raises(NotThereError):
        vllm_plugin.register()
