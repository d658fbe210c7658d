"""Write expected.jsonl: the result that hydraopt gives for each bundle of conformance/cases.

    PYTHONPATH=src:. python -m tests.conformance.make

``ground`` and ``may_lack`` of lines that are there stay; of a new case they are added by hand, and
its result is to be checked against the specification.
"""

from __future__ import annotations

import json
from typing import Any

from conformance.run import FOLDER, expected_results
from tests.conformance.driver import Result, result_of

CASES = FOLDER / "cases"


def expected(name: str, before: dict[str, Any], result: Result) -> dict[str, Any]:
    """Return the line of a case.

    before: its line so far, or {}.
    """
    tasks = result["tasks"]
    if result["verify"] not in ("ok", "unsupported"):  # how soon damage shows is free
        named = before.get("tasks", {})
        tasks = {key: {"adapter": tasks[key]["adapter"]} for key in tasks if key in named}
    for key, task in tasks.items():
        # Not all readers tell apart that a number does not fit its dtype.
        was = before.get("tasks", {}).get(key, {}).get("adapter")
        if (task["adapter"], was) == ("unsupported", "range"):
            task["adapter"] = was
    kept = {key: before[key] for key in ("ground", "may_lack") if key in before}
    return {"case": name, **kept, **result, "tasks": tasks}


def main() -> None:
    """Write the results of all cases again."""
    before = {case["case"]: case for case in expected_results()}
    lines = [
        json.dumps(expected(path.name, before.get(path.name, {}), result_of(path)))
        for path in sorted(CASES.iterdir(), key=lambda x: x.name.partition(".")[0])
    ]
    (FOLDER / "expected.jsonl").write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()
