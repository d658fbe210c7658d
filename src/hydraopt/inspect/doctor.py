"""Everything that doctor looks at; none of its looks raises.

Nothing leaves the machine, and nothing is written but a bundle in a temporary folder.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import numpy as np
from packaging.requirements import Requirement

from hydraopt.bundle import header_of
from hydraopt.codec import cores, most_memory
from hydraopt.errors import HydraoptError

_RANK: Final = 4
_M: Final = 48
_N: Final = 40
_PATHS: Final = tuple(f"model.layers.{i}.self_attn.{x}_proj" for i in range(2) for x in "qv")


def two_adapters(folder: Path) -> list[Path]:
    """Write PEFT folders of one base model under ``folder``; A is the same in both."""
    config = {
        "peft_type": "LORA",
        "r": _RANK,
        "lora_alpha": _RANK,
        "base_model_name_or_path": "hydraopt/sample",
        "target_modules": ["q_proj", "v_proj"],
    }
    common = np.random.default_rng(0).standard_normal((len(_PATHS), _RANK, _N))
    made = []
    for seed, name in enumerate(("one", "two"), 1):
        rng, tensors = np.random.default_rng(seed), {}
        for path, a in zip(_PATHS, common, strict=True):
            own = a + 0.3 * rng.standard_normal(a.shape)
            stem = f"base_model.model.{path}"
            tensors[f"{stem}.lora_A.weight"] = own.astype("<f2")
            b = rng.standard_normal((_M, _RANK)).astype("<f2")
            tensors[f"{stem}.lora_B.weight"] = b
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
        described = [(key, "F16", x.shape, x.nbytes) for key, x in tensors.items()]
        content = header_of(described, {}) + b"".join(x.tobytes() for x in tensors.values())
        (folder / name / "adapter_model.safetensors").write_bytes(content)
        made.append(folder / name)
    return made


State = Literal["ok", "note", "trouble"]
"""note: something optional is not there. trouble: something that commands need does not work."""

PACKAGE: Final = "hydraopt"
_FOR_USERS: Final = ("model", "eval", "serve", "remote", "hub", "gguf", "onnx", "plot", "ray")
"""Extras that commands ask for; those there are of a version are in its metadata."""
LITTLE: Final = 1 << 30
"""Bytes of memory or of disk below which a merge of a few adapters may not end."""


@dataclass(frozen=True)
class Symptom:
    """Result of one check.

    what: name of the check.
    state: see :data:`State`.
    finding: what was found, in words.
    do: the remedy, empty if none is needed.
    """

    what: str
    state: State
    finding: str
    do: str = ""


def look(base: str | None = None) -> Iterator[Symptom]:
    """Yield all symptoms, in the order in which trouble would spread.

    base: a base model's folder, checked without loading its weights.
    """
    yield Symptom("hydraopt", "ok", f"{metadata.version(PACKAGE)}, {Path(__file__).parents[1]}")
    yield _machine()
    yield _required()
    yield from _extras()
    yield _memory()
    yield from _folders()
    if base is not None:
        yield _base(base)
    yield _merge()


def _machine() -> Symptom:
    version = f"{platform.python_version()} ({platform.python_implementation()})"
    finding = f"{version}, {platform.system()} {platform.machine()}, {cores()} cores"
    return Symptom("Python", "ok", finding)


def _requirements(extra: str | None) -> list[Requirement]:
    """Return the requirements of an extra alone, or of the package itself.

    Extras that an extra names are resolved.
    """
    own = []
    for requirement in map(Requirement, metadata.requires(PACKAGE) or ()):
        named = re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker))
        if (named[1] if named else None) != extra:
            continue
        if requirement.name == PACKAGE:
            own += [x for name in requirement.extras for x in _requirements(name)]
        else:
            own.append(requirement)
    return own


def _unmet(wanted: Requirement) -> str | None:
    """Return the problem with one requirement; None if it is met."""
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} {version} is outside {wanted.specifier}"
    return None


def _required() -> Symptom:
    problems = [x for x in map(_unmet, _requirements(None)) if x]
    if problems:
        return Symptom("packages", "trouble", "; ".join(problems), "pip install -U hydraopt")
    names = sorted(x.name for x in _requirements(None))
    return Symptom("packages", "ok", ", ".join(f"{x} {metadata.version(x)}" for x in names))


def _extras() -> Iterator[Symptom]:
    there = set(metadata.metadata(PACKAGE).get_all("Provides-Extra") or ())
    for extra in (x for x in _FOR_USERS if x in there):
        problems = [x for x in map(_unmet, _requirements(extra)) if x]
        if problems:
            do = f"pip install 'hydraopt[{extra}]'"
            yield Symptom(f"extra {extra}", "note", "; ".join(problems), do)
        else:
            yield Symptom(f"extra {extra}", "ok", "installed")


def _memory() -> Symptom:
    whole = most_memory()
    if not whole:
        return Symptom("memory", "note", "the system does not say")
    finding = f"{whole / 1e9:.1f} GB"
    if whole < LITTLE:
        return Symptom("memory", "trouble", finding, "Merge fewer adapters at a time")
    return Symptom("memory", "ok", finding)


def _folders() -> Iterator[Symptom]:
    """Yield the folders that hydraopt writes: whether it can, and how much room there is."""
    from hydraopt.files import cache_root

    yield _writable("cache", cache_root(), "Set HYDRAOPT_CACHE to a folder of yours")
    yield _writable("temporary files", Path(tempfile.gettempdir()), "Set TMPDIR to a folder")


def _writable(what: str, folder: Path, do: str) -> Symptom:
    import shutil

    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Symptom(what, "trouble", f"{folder} cannot be written", do)
    free = shutil.disk_usage(there).free
    finding = f"{folder}, {free / 1e9:.1f} GB free"
    return Symptom(what, "trouble" if free < LITTLE else "ok", finding, do if free < LITTLE else "")


def _base(base: str) -> Symptom:
    """Check the base model by the headers of its files alone."""
    from hydraopt.adapters import open_base

    try:
        tensors = open_base(base) or {}
    except (HydraoptError, OSError) as error:
        return Symptom("base", "trouble", str(error), "Give the folder that transformers loads")
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Symptom("base", "ok", f"{base}: {len(tensors)} tensors, {numbers / 1e6:,.0f} M numbers")


def _merge() -> Symptom:
    """Merge two small adapters, read them back and compare."""
    import numpy as np

    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hydraopt-doctor-") as folder:
            from hydraopt.bundle import open_bundle
            from hydraopt.merging import merge

            made = merge(two_adapters(Path(folder)), Path(folder) / "x", max_error=0.1)
            bundle = open_bundle(made.path)
            finite = all(
                np.isfinite(x.B).all() and np.isfinite(x.A).all()
                for task in bundle.values()
                for x in task.factors().values()
            )
    except Exception as error:  # whatever is wrong here is what the user wants to know
        finding = f"a small merge failed: {type(error).__name__}: {error}"
        return Symptom("merge", "trouble", finding, "Mend what is above; else report this as a bug")
    if not (finite and max(made.errors.values()) <= 0.1):
        finding = f"a small merge gave errors of {max(made.errors.values()):.3g}, 0.1 permitted"
        return Symptom("merge", "trouble", finding, "Please report this as a bug of hydraopt")
    took = time.monotonic() - started
    return Symptom("merge", "ok", f"two small adapters, there and back, in {took:.1f} s")
