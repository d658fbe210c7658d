"""The adapters' own fp16 files as they are, in a zip archive, and as a tar through zstd."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import zstandard
from safetensors.numpy import load, save

from benchmarks.rivals.base import Compressor, Modules, Tasks
from benchmarks.rivals.registry import SetShape

__all__ = ["fp16_files", "rows", "zip_files", "zstd_files"]

_LEVEL = 19


def _file(modules: Modules) -> bytes:
    """Return a PEFT weight file in fp16; the config, which holds no numbers, is left out."""
    tensors = {}
    for path, (b, a) in modules.items():
        for side, x in (("A", a), ("B", b)):
            key = f"base_model.model.{path}.lora_{side}.weight"
            tensors[key] = np.ascontiguousarray(x, np.float16)
    return save(tensors)


def _modules(data: bytes) -> Modules:
    tensors = {key: x.astype(np.float32) for key, x in load(data).items()}
    found = {}
    for key, b in tensors.items():
        if key.endswith(".lora_B.weight"):
            path = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            found[path] = b, tensors[key.replace(".lora_B.", ".lora_A.")]
    return found


def _write_files(tasks: Tasks, folder: Path) -> None:
    for task, modules in tasks.items():
        (folder / f"{task}.safetensors").write_bytes(_file(modules))


def fp16_files() -> Compressor:
    """Return a compressor that stores all in fp16."""
    return Compressor(
        "store all",
        "fp16",
        _write_files,
        lambda folder, task: _modules((folder / f"{task}.safetensors").read_bytes()),
    )


def zip_files() -> Compressor:
    """Return a compressor that deflates at the highest level."""

    def write(tasks: Tasks, folder: Path) -> None:
        kind = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(folder / "all.zip", "w", kind, compresslevel=9) as archive:
            for task, modules in tasks.items():
                archive.writestr(f"{task}.safetensors", _file(modules))

    def read(folder: Path, task: str) -> Modules:
        with zipfile.ZipFile(folder / "all.zip") as archive:
            return _modules(archive.read(f"{task}.safetensors"))

    return Compressor("zip", "fp16", write, read)


def zstd_files() -> Compressor:
    """Return a compressor of one tar, so that what files share may help, at level 19."""

    def write(tasks: Tasks, folder: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for task, modules in tasks.items():
                data = _file(modules)
                entry = tarfile.TarInfo(f"{task}.safetensors")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        packed = zstandard.ZstdCompressor(_LEVEL).compress(buffer.getvalue())
        (folder / "all.tar.zst").write_bytes(packed)

    def read(folder: Path, task: str) -> Modules:
        raw = zstandard.ZstdDecompressor().decompress((folder / "all.tar.zst").read_bytes())
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            member = archive.extractfile(f"{task}.safetensors")
            assert member is not None
            return _modules(member.read())

    return Compressor("zstd", "fp16", write, read)


def rows(shape: SetShape) -> list[Compressor]:
    """Return all three compressors."""
    return [fp16_files(), zip_files(), zstd_files()]
