"""Model card of a bundle: README.md with the header that hubs read, from the page's data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from hydraopt.bundle import base_words, load_lines
from hydraopt.report.builder import Collected, cut
from hydraopt.report.data import Judged, TaskView, language_name
from hydraopt.report.tasks import group_rows, summary_of

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
"""Names that hubs use for the metrics of hydraopt eval."""


def bundle_card(known: Collected, address: str | None = None) -> str:
    """Return the card as text. It marks what was not measured; names cannot become markup.

    address: where the bundle will be, for the commands on the card. None: a file of its name.
    """
    bundle, tasks = known.bundle, known.tasks
    summary = summary_of(bundle, tasks, known.originals, known.image)
    lines = "\n".join(f"- {_plain(line)}" for line in summary)
    name = known.name
    words = base_words(bundle.base_model, bundle.core.modules)
    base = f"`{_code(words)}`" if bundle.base_model else words
    parts = [
        "---\n" + "".join(f"{line}\n" for line in _header(known)) + "---\n",
        f"# {_plain(name)}\n",
        f"A bundle of {len(tasks):,} adapters of {base}, made by hydraopt.\n",
        _use(known, address),
        f"{lines}\n",
        f"## Tasks\n\n{_table(tasks, known.image)}",
        *_languages(tasks),
        f"## How it was made\n\n{_recipe(known)}",
    ]
    return "\n".join(parts)


def _use(known: Collected, address: str | None) -> str:
    """Return the command that exports a task, and for image models the lines that load it."""
    bundle, name = known.bundle, _code(known.tasks[0].name)
    where, first = shlex.quote(address or _code(known.name)), shlex.quote(name)
    if not known.image:
        command = f"hydraopt export {where} {first} -o {first}"
        return f"Each comes back as a PEFT adapter:\n\n```text\n{command}\n```\n"
    kohya = bundle[known.tasks[0].name].entry.format == "kohya"
    target = f"{name}.safetensors" if kohya else name
    form = "kohya" if kohya else "diffusers"
    command = f"hydraopt export {where} {first} --format {form} -o {shlex.quote(target)}"
    lines = [_code(line) for line in load_lines(bundle.base_model, target, bundle.core.modules)]
    use = "\n".join(["", "```python", *lines, "```", ""]) if lines else ""
    return f"Each comes back as a LoRA file:\n\n```text\n{command}\n```\n{use}"


def _header(known: Collected) -> list[str]:
    """Return the YAML lines. A JSON string is also a YAML string."""
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


_ERROR_IS_NO_HARM: Final = (
    "The relative error is no measure of harm: losing a part of a change does more harm than "
    "noise of the same size."
)


def _table(tasks: Sequence[TaskView], image: bool) -> str:
    """Return a table of the tasks, the most harmed first.

    image: True for an image model, for which harm has a column only if it was measured.
    """
    columns: dict[str, Callable[[TaskView], str]] = {
        "task": lambda x: _plain(x.name),
        "relative error": lambda x: "lossless" if x.lossless else f"{x.error:.3f}",
    }
    if not image or any(x.harm is not None for x in tasks):
        columns["answers that change"] = _harm_cell
    if any(x.judged is not None for x in tasks):
        columns["score, original"] = lambda x: _score_cell(x.judged, "original")
        columns["score, bundle"] = lambda x: _score_cell(x.judged, "bundle")
    rows = [[cell(x) for cell in columns.values()] for x in tasks[:_MOST_ROWS]]
    cells = [list(columns), ["---"] * len(columns), *rows]
    lines = [_ERROR_IS_NO_HARM, "", *(f"| {' | '.join(row)} |" for row in cells)]
    left = len(tasks) - _MOST_ROWS
    text = "\n".join(lines) + "\n"
    return text + (f"\nAnd {left:,} tasks with less harm.\n" if left > 0 else "")


def _harm_cell(task: TaskView) -> str:
    return "not measured" if task.harm is None else f"{100 * task.harm:.1f} % ({task.measured})"


def _score_cell(judged: Judged | None, which: Literal["original", "bundle"]) -> str:
    score: float | None = getattr(judged, which) if judged is not None else None
    return "-" if judged is None or score is None else f"{score:.2f} ({_plain(judged.metric)})"


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
    """Escape a text so that Markdown shows it as it is."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]{}<>|#~!&])", r"\\\1", flat)


def _code(value: Any) -> str:
    """Return the value as text that can stand between backticks: no backticks, no line ends."""
    return " ".join(str(value).split()).replace("`", "'")
