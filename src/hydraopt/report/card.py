"""The model card of a bundle: README.md with the header that hubs read, from the page's data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any, Final

from hydraopt.report.build import Collected, cut
from hydraopt.report.groups import group_rows
from hydraopt.report.model import TaskView
from hydraopt.report.naming import language_name
from hydraopt.report.summary import summary_of

__all__ = ["MARK", "bundle_card"]

MARK: Final = "library_name: hydraopt\n"
"""A line of every card that this module writes."""

_MOST_ROWS: Final = 200
_METRICS: Final = {
    "accuracy": "accuracy",
    "BLEU": "sacrebleu",
    "chrF": "chrf",
    "exact match": "exact_match",
    "GLEU": "google_bleu",
    "macro-F1": "f1",
    "ROUGE-L": "rouge",
}
"""What hubs call what hydraopt eval measures."""


def bundle_card(known: Collected) -> str:
    """The card as text. What was not measured is said to be so; names cannot become markup."""
    bundle, tasks = known.bundle, known.tasks
    said = "\n".join(f"- {_plain(line)}" for line in summary_of(bundle, tasks, known.fp16_bytes))
    name = known.name
    base = f"`{_code(bundle.base_model)}`" if bundle.base_model else "a base model it does not name"
    first = shlex.quote(_code(tasks[0].name))
    use = f"hydraopt export {shlex.quote(_code(name))} {first} -o {first}"
    parts = [
        "---\n" + "".join(f"{line}\n" for line in _header(known)) + "---\n",
        f"# {_plain(name)}\n",
        f"A bundle of {len(tasks):,} adapters of {base}, made by hydraopt. Each comes back as a "
        f"PEFT adapter:\n\n```text\n{use}\n```\n",
        f"{said}\n",
        f"## Tasks\n\n{_table(tasks)}",
        *_languages(tasks),
        f"## How it was made\n\n{_recipe(known)}",
    ]
    return "\n".join(parts)


def _header(known: Collected) -> list[str]:
    """The YAML lines. A JSON string is one of YAML too."""
    bundle, tasks = known.bundle, known.tasks
    lines = []
    if bundle.base_model:
        lines += [f"base_model: {_string(bundle.base_model)}", "base_model_relation: adapter"]
    lines.append(MARK.strip())
    languages = sorted({x.language for x in tasks if re.fullmatch("[a-z]{2,3}", x.language)})
    if languages:
        # "no" is a language, and false in some readers of YAML.
        lines += ["language:", *(f"- {_string(x)}" for x in languages)]
    lines += ["tags:", "- hydraopt", "- lora"]
    judged = [x for x in tasks if x.judged is not None and x.judged.bundle is not None]
    metrics = sorted({_metric(x) for x in judged})
    if metrics:
        lines += ["metrics:", *(f"- {_string(x)}" for x in metrics)]
        lines += ["model-index:", f"- name: {_string(known.name)}", "  results:"]
        for task in judged[:_MOST_ROWS]:
            lines += _result(task)
    return lines


def _metric(task: TaskView) -> str:
    name = task.judged.metric if task.judged else ""
    return _METRICS.get(name, name)


def _result(task: TaskView) -> list[str]:
    judged = task.judged
    assert judged is not None
    about = f"{task.name}: {judged.rows:,} rows"
    return [
        "  - task:",
        "      type: text-generation",
        f"      name: {_string(task.name)}",
        "    dataset:",
        f"      type: {_string(task.group)}",
        f"      name: {_string(about)}",
        "    metrics:",
        f"    - type: {_string(_metric(task))}",
        f"      name: {_string(judged.metric)}",
        f"      value: {judged.bundle:.4g}",
    ]


def _table(tasks: Sequence[TaskView]) -> str:
    """The tasks, the most harmed first."""
    lines = [
        "| task | relative error | answers that change | score, original | score, bundle |",
        "| --- | --- | --- | --- | --- |",
    ]
    for task in tasks[:_MOST_ROWS]:
        judged = task.judged
        error = "lossless" if task.lossless else f"{task.error:.3f}"
        harm = "not measured" if task.harm is None else f"{100 * task.harm:.1f} % ({task.measured})"
        scores = [
            "-" if judged is None or value is None else f"{value:.2f} ({_plain(judged.metric)})"
            for value in ((judged.original, judged.bundle) if judged else (None, None))
        ]
        lines.append(f"| {_plain(task.name)} | {error} | {harm} | {scores[0]} | {scores[1]} |")
    left = len(tasks) - _MOST_ROWS
    text = "\n".join(lines) + "\n"
    return text + (f"\nAnd {left:,} tasks with less harm.\n" if left > 0 else "")


def _languages(tasks: Sequence[TaskView]) -> list[str]:
    rows = [x for x in group_rows(tasks, lambda x: language_name(x.language)) if x.changed]
    if not rows:
        return []
    lines = ["| language | tasks | answers that change |", "| --- | --- | --- |"]
    lines += [f"| {_plain(x.name)} | {x.tasks:,} | {100 * (x.changed or 0):.1f} % |" for x in rows]
    return ["## By language\n\n" + "\n".join(lines) + "\n"]


def _recipe(known: Collected) -> str:
    bundle = known.bundle
    rows = [("written by", bundle.metadata.get("library", "(not said)"))]
    rows += [("format version", str(bundle.version))]
    rows += [
        (f"recipe: {key}", cut(json.dumps(value, ensure_ascii=False), 300))
        for key, value in bundle.recipe.items()
    ]
    rows += known.evidence.origin
    return "\n".join(f"- {_plain(str(key))}: `{_code(value)}`" for key, value in rows) + "\n"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]{}<>|#~!&])", r"\\\1", flat)


def _code(value: Any) -> str:
    """Text between backticks: it has none, and no line end."""
    return " ".join(str(value).split()).replace("`", "'")
