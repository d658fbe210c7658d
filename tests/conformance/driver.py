"""Report what hydraopt reads in bundles, a line of JSON each: the driver of conformance/README.md.

python -m tests.conformance.driver PATH...
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hydraopt.bundle import CONFIG, WEIGHTS, TaskAdapter, balanced, open_bundle
from hydraopt.bundle.peft.folder import check_peft, export_peft
from hydraopt.bundle.verification import read_stored
from hydraopt.errors import (
    BundleFormatError,
    ChecksumError,
    ExportError,
    HydraoptError,
    UnsupportedVersionError,
    UsageError,
)

Result = dict[str, Any]

_WORDS = {
    ChecksumError: "checksum",
    UnsupportedVersionError: "version",
    BundleFormatError: "damaged",
    ExportError: "unsupported",
    UsageError: "unsupported",  # a tensor that needs the base model
}


def result_of(path: Path) -> Result:
    """Return the result for one bundle; errors other than HydraoptError are raised."""
    try:
        bundle = open_bundle(path)
        tasks = [bundle[name] for name in bundle]
    except HydraoptError as error:
        return {"verify": _WORDS[type(error)], "tasks": {}}

    def read() -> str:
        for file in bundle.files:
            for name in file.sizes:
                file.read(name)
        bundle.decode_core()
        for task in tasks:
            read_stored(task)
        for task in tasks:
            check_peft(task)
        return "ok"

    verify = _word_or(read)
    return {"verify": verify, "tasks": {task.name: _task(task) for task in tasks}}


def _task(task: TaskAdapter) -> Result:
    return {
        "modules": _word_or(lambda: _modules(task)),
        "tensors": _word_or(lambda: _tensors(task)),
        "adapter": _word_or(lambda: _adapter(task)),
    }


def _word_or(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except HydraoptError as error:
        return _WORDS[type(error)]


def _modules(task: TaskAdapter) -> Result:
    if task.entry.lossless:
        return {}
    found = {}
    for path, factors in task.factors().items():
        each = balanced(factors)
        data = [np.ascontiguousarray(x, "<f8").tobytes() for x in (each.B, each.A)]
        found[path] = [each.A.shape[0], _hash(b"".join(data))]
    return found


def _tensors(task: TaskAdapter) -> Result:
    coded = task.coded_tensors() if task.entry.tensors else {}
    return {
        key: [x.dtype, list(x.shape), _hash(x.raw())]
        for key, x in {**task.carried, **coded}.items()
    }


def _adapter(task: TaskAdapter) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "adapter"
        try:
            export_peft(task, made)
        except HydraoptError:
            assert not made.exists()
            raise
        return {name: _hash((made / name).read_bytes()) for name in (CONFIG, WEIGHTS)}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(result_of(Path(argument))))
