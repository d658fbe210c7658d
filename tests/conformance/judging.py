"""What readers say of a bundle: one word for it, and one for each of its tasks.

The words are those of the C library's hydra_status_name: ok, damaged, checksum, version,
unsupported. Of a task the word says whether it can be written as a PEFT adapter in its own dtype;
"range" (a number does not fit the dtype) is a kind of "unsupported".
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydraopt.bundle.peft.folder import check_peft, export_peft
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.verify import read_stored
from hydraopt.collection.opening import open_bundle, verify_bundle
from hydraopt.errors import (
    BundleFormatError,
    ChecksumError,
    ExportError,
    HydraoptError,
    UnsupportedVersionError,
    UsageError,
)

UNABLE = "unsupported"
_WORDS = {
    ChecksumError: "checksum",
    UnsupportedVersionError: "version",
    BundleFormatError: "damaged",
    ExportError: UNABLE,
    UsageError: UNABLE,  # what needs the base model, which C does not read
}


@dataclass(frozen=True)
class Verdict:
    """whole: what verifying gives.  tasks: what writing each gives, by index; nothing of a file
    that does not open.  hashes: of what was written."""

    whole: str
    tasks: tuple[str, ...] = ()
    hashes: tuple[str | None, ...] = ()


def word_of(error: HydraoptError) -> str:
    return _WORDS[type(error)]


def of_python(path: Path) -> Verdict:
    """hydraopt's verdict; raises what is no HydraoptError, and where its parts contradict."""
    whole, words, hashes = "ok", list[str](), list[str | None]()
    try:
        bundle = open_bundle(path)
        tasks = [bundle[name] for name in bundle]
    except HydraoptError as error:
        assert not verify_bundle(path).ok
        return Verdict(word_of(error))
    for task in tasks:
        try:
            _check(task)
        except HydraoptError as error:
            whole = word_of(error) if whole == "ok" else whole
    assert verify_bundle(path).ok == (whole == "ok")
    for task in tasks:
        word, found = _exported(task)
        words.append(word)
        hashes.append(found)
    return Verdict(whole, tuple(words), tuple(hashes))


def _check(task: TaskAdapter) -> None:
    """Read all of a task, as verifying does, and raise what is wrong with it."""
    read_stored(task)
    check_peft(task)


def _exported(task: TaskAdapter) -> tuple[str, str | None]:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "adapter"
        try:
            export_peft(task, made)
        except HydraoptError as error:
            assert not made.exists()
            return word_of(error), None
        found = 2166136261
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            for byte in name.encode() + b"\0" + (made / name).read_bytes():
                found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
        return "ok", f"{found:08x}"


def of_c(command: str, paths: Sequence[Path]) -> list[Verdict]:
    """The C library's verdicts, by native/tests/conformance.c."""
    done = subprocess.run([command, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = []
    for line in done.stdout.splitlines():
        _, whole, *tasks = line.split("\t")
        hashes = tuple(task.removeprefix("ok ") if task[:3] == "ok " else None for task in tasks)
        words = tuple("ok" if found else task for task, found in zip(tasks, hashes, strict=True))
        made.append(Verdict(whole, words, hashes))
    assert len(made) == len(paths)
    return made


def differences(path: Path, ours: Verdict, theirs: Verdict) -> list[str]:
    """Where C's verdict differs from hydraopt's, but for what C says that it does not do: read the
    tensors of a lossless task of another format than PEFT's, and some expressions."""
    found = []
    if ours.whole != theirs.whole:
        found.append(f"verify: {ours.whole} | {theirs.whole}")
    if ours.tasks and not theirs.tasks:
        return found
    bundle = open_bundle(path) if ours.tasks else {}
    for i, name in enumerate(bundle):
        task, one, other = bundle[name], ours.tasks[i], theirs.tasks[i].replace("range", UNABLE)
        of_others = task.entry.lossless and task.entry.format != "peft"
        if other == UNABLE and (of_others or _has_expression(task.config)):
            continue
        if one != other or ours.hashes[i] != theirs.hashes[i]:
            found.append(f"{name!r}: {one} {ours.hashes[i]} | {other} {theirs.hashes[i]}")
    return found


def _has_expression(config: Mapping[str, Any]) -> bool:
    """Whether a setting of a config holds an expression that is more than a path."""
    values = [config.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern")]
    texts = [x for value in values for x in (value if isinstance(value, list) else [value])]
    return any(isinstance(x, str) and not re.fullmatch(r"[\w.-]*", x) for x in texts)
