"""Compare what readers say of a bundle that is not in conformance/."""

from __future__ import annotations

from pathlib import Path

from hydraopt.bundle import TaskAdapter, open_bundle, verify_bundle
from tests.conformance.driver import Result, result_of

UNABLE = "unsupported"


def of_python(path: Path) -> Result:
    """Return hydraopt's result; verify_bundle must agree."""
    result = result_of(path)
    assert verify_bundle(path).ok == (result["verify"] == "ok")
    return result


def differences(path: Path, ours: Result, theirs: Result) -> list[str]:
    """Return where the result of C differs from hydraopt's, but for what C says it cannot do."""
    found = []
    if ours["verify"] != theirs["verify"]:
        found.append(f"verify: {ours['verify']} | {theirs['verify']}")
    if not ours["tasks"] or not theirs["tasks"]:
        return found
    bundle = open_bundle(path)
    sound = ours["verify"] in ("ok", UNABLE)  # else the readers may notice damage early or late
    for name in bundle:
        mine, other = ours["tasks"][name], theirs["tasks"][name]
        for part in ("modules", "tensors", "adapter") if sound else ("adapter",):
            value = UNABLE if other[part] == "range" else other[part]
            if not sound and isinstance(mine[part], str) and isinstance(value, str):
                continue  # both refuse; which of two faults is met first differs
            if mine[part] != value and not (value == UNABLE and _lacks(bundle[name], part)):
                found.append(f"{name!r}, {part}: {mine[part]} | {value}")
    return found


def _lacks(task: TaskAdapter, part: str) -> bool:
    """Return whether C may answer that it cannot do this."""
    if part == "tensors":
        return any("\0" in key for key in task.carried)
    return task.entry.lossless and task.entry.format != "peft"
