"""Write the cases of conformance/ and expected.jsonl, which has the result of each.

    PYTHONPATH=src:. python -m tests.conformance.make

Run again only when the format or a verdict changes.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conformance import broken, changed, refused, sound, started
from tests.conformance.driver import Result, result_of
from tests.conformance.forging import SUFFIX, Case, Verdict

FOLDER = Path(__file__).parents[2] / "conformance"
CASES, EXPECTED = FOLDER / "cases", FOLDER / "expected.jsonl"


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield from itertools.chain(sound.cases(), changed.cases(), refused.cases(), broken.cases())
    yield from itertools.chain(started.sound(), started.refused())


def write_case(case: Case, folder: Path) -> Path:
    """Write a bundle, or a folder of one, below ``folder``; return its path."""
    name, data, _ = case
    if isinstance(data, bytes):
        path = folder / f"{name}{SUFFIX}"
        path.write_bytes(data)
        return path
    path = folder / name
    path.mkdir()
    for each, content in data.items():
        (path / each).write_bytes(content)
    return path


def expected(name: str, verdict: Verdict, result: Result) -> dict[str, Any]:
    """Return the line of expected.jsonl: the result, which must not contradict the verdict."""
    assert result["verify"] == verdict.verify, (name, verdict, result)
    refused = verdict.verify not in ("ok", "unsupported")
    for task in result["tasks"].values():
        if verdict.adapter != "ok":
            # Not all readers tell apart that a number does not fit its dtype.
            unable = str(verdict.adapter).replace("range", "unsupported")
            assert task["adapter"] == unable, (name, verdict, result)
            task["adapter"] = verdict.adapter
        assert refused or verdict.adapter != "ok" or isinstance(task["adapter"], dict), name
    if refused:  # how soon damage shows is free
        tasks = result["tasks"].items() if verdict.adapter != "ok" else ()
        result["tasks"] = {key: {"adapter": x["adapter"]} for key, x in tasks}
    extra = {"ground": verdict.ground, "may_lack": [*verdict.lacking]}
    return {"case": name, **{key: x for key, x in extra.items() if x}, **result}


def main() -> None:
    """Write all cases again."""
    shutil.rmtree(CASES, ignore_errors=True)
    CASES.mkdir()
    lines = {}
    for case in cases():
        path, name = write_case(case, CASES), case[0]
        assert name not in lines, name
        lines[name] = json.dumps(expected(path.name, case[2], result_of(path)))
    EXPECTED.write_text("".join(f"{line}\n" for _, line in sorted(lines.items())))
    files = [x for x in FOLDER.rglob("*") if x.is_file()]
    print(f"{len(lines)} cases, {sum(x.stat().st_size for x in files):,} bytes")


if __name__ == "__main__":
    main()
