"""The sample of a request-time resolver at Dynamo's interface, which a stand-in provides."""

from __future__ import annotations

import asyncio
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hydraopt.bundle import open_bundle
from hydraopt.export import export_vllm
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dynamo"


@dataclass(frozen=True)
class ResolveContext:
    """Fields that Dynamo passes, but for those of the request."""

    base_model_name: str
    cache_root: Path
    max_download_bytes: int = 1 << 30


@dataclass(frozen=True)
class ResolvedLoRA:
    local_path: Path
    source_revision: str
    size_bytes: int | None = None
    metadata: Any = None


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks "de" and "fr" of the base "org/tiny", and Dynamo's environment."""
    names = ["dynamo", "dynamo.common", "dynamo.common.lora", "dynamo.common.lora.runtime"]
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].ResolveContext = ResolveContext  # type: ignore[attr-defined]
    modules[names[-1]].ResolvedLoRA = ResolvedLoRA  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(SAMPLE)
    monkeypatch.delitem(sys.modules, "hydraopt_dynamo", raising=False)
    made = [write_adapter(tmp_path / name, pairs(i)) for i, name in enumerate(("de", "fr"))]
    path = Path(bundled(tmp_path, *made).path)
    monkeypatch.setenv("HYDRAOPT_BUNDLE", str(path))
    monkeypatch.delenv("HYDRAOPT_ANY_BASE", raising=False)
    return path


def resolved(resolver: Any, uri: str, cache: Path, base: str = "org/tiny") -> Any:
    return asyncio.run(resolver.resolve(source_uri=uri, context=ResolveContext(base, cache)))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def resolver() -> Any:
    from hydraopt_dynamo import HydraResolver  # type: ignore[import-not-found]

    return HydraResolver()


def test_it_has_the_attributes_that_dynamo_checks(bundle: Path) -> None:
    made = resolver()
    assert made.protocol_version == 2
    assert made.schemes == {"hydra"}
    assert inspect.iscoroutinefunction(made.resolve)


def test_a_task_is_a_folder_below_the_cache_as_vllm_reads_it(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = resolved(resolver(), "hydra://de", cache)
    assert found.local_path.resolve().is_relative_to(cache)
    assert not found.local_path.is_symlink()
    assert found.size_bytes == sum(x.stat().st_size for x in found.local_path.iterdir())
    export_vllm(open_bundle(bundle)["de"], tmp_path / "expected")
    assert files(found.local_path) == files(tmp_path / "expected")


def test_the_revision_is_that_of_the_content(bundle: Path, tmp_path: Path) -> None:
    made, cache = resolver(), tmp_path / "cache"
    first = resolved(made, "hydra://de", cache)
    before = files(first.local_path)
    assert resolved(made, "hydra://de", cache) == first
    assert resolved(made, "hydra://fr", cache).source_revision != first.source_revision
    bundled(tmp_path, write_adapter(tmp_path / "new" / "de", pairs(7)))
    after = resolved(made, "hydra://de", cache)
    assert after.source_revision != first.source_revision
    assert files(first.local_path) == before != files(after.local_path)


def test_what_the_bundle_lacks_is_none(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    assert resolved(resolver(), "hydra://nowhere", cache) is None
    assert resolved(resolver(), "hydra://de", cache, base="org/other") is None
    monkeypatch.setenv("HYDRAOPT_ANY_BASE", "1")
    assert resolved(resolver(), "hydra://de", cache, base="org/other") is not None
