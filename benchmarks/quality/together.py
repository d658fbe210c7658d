"""Try one content for several alike tasks, trained to keep all their answers, against their own.

    python -m benchmarks.quality together --tasks TASKS
    python -m benchmarks.quality together --tasks TASKS --only slots --share 0.0125

Each group of adapters is stored twice in the same number of bytes, --share of their fp16. "apart"
is one bundle of all, refitted on prompts. "together" is one adapter for all, trained to keep the
answers of each original to the same prompts, coded and refitted as the others; "trained" is that
adapter before it is coded, "coded" without a refit. Prompts are the first rows of the validation
split and then of the training split. Judged on the originals' own answers to the first rows of the
test split: answers that change, and KL an answer in nats. Saved after each group; a second call
continues.
Writes benchmarks/results/quality/together.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.equal_kl import row_values
from benchmarks.quality.evidence import original_adapters
from benchmarks.quality.few_prompts import real_prompts
from benchmarks.quality.joint import trained_together
from benchmarks.quality.prompt_ways import mean_interval
from benchmarks.quality.sets import recipe_of
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.basemodel.encoding import encode_prompt, prompt_text
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.writing import answered
from hydraopt.coding.records import PartsRecord
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.harm.drift import Drift, drift_of, reference_of
from hydraopt.harm.judge import AnswerJudge
from hydraopt.harm.lesson import teacher_of
from hydraopt.harm.refit import refit
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import Look
from hydraopt.merging.merge import merge
from hydraopt.merging.rewrite import CodedModules
from zoo.bases import base_folder, find_base
from zoo.lora import write_peft
from zoo.recipe import read_recipe

__all__ = ["compared", "main"]

Result = dict[str, Any]
_LANGUAGES: Final = {
    "slots": ("slot_filling", ("en", "de", "it", "nl")),
    "sentiment": ("sentiment", ("en", "de", "fr", "es")),
    "corrections": ("text_correction", ("en", "de", "fr", "it")),
    "dates": ("date_format", ("en", "de", "fr", "es")),
    "numbers": ("number_words", ("en", "de", "fr", "es")),
}
GROUPS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **{
        group: ("gemma3-5x8", tuple(f"{task}-{language}" for language in languages))
        for group, (task, languages) in _LANGUAGES.items()
    },
    "customers": ("gemma3-customers2", ("snips_parse-first", "snips_parse-second")),
}
"""Set and adapters of each group."""
_LEAST: Final = 1e-9


def compared(drifts: Mapping[str, Drift], others: Mapping[str, Drift]) -> Result:
    """Return the differences of two ways, the first less the second, over all their rows.

    changed_pct: percent of answers that change, with its 95 % interval, a bootstrap over rows.
    kl_factor: geometric mean over tasks of the factor of KL.
    """
    changed, logs = list[float](), list[float]()
    for name, drift in drifts.items():
        mine, theirs = (row_values(x) for x in (drift, others[name]))
        changed += [100.0 * (a - b) for (a, _), (b, _) in zip(mine, theirs, strict=True)]
        one, other = (x.summary().harm.kl for x in (drift, others[name]))
        logs.append(float(np.log(max(one, _LEAST) / max(other, _LEAST))))
    return {
        "changed_pct": mean_interval(changed),
        "kl_factor": [round(float(np.exp(x)), 3) for x in mean_interval(logs)],
    }


def said(drift: Drift) -> Result:
    """Return what the result file holds of a drift."""
    kl = drift.summary().harm.kl
    return {"changed": drift.changed, "kl": float(f"{kl:.4g}"), "rows": row_values(drift)}


def bundled(adapters: Sequence[Adapter], size: str, place: Path, **more: Any) -> Any:
    """Return the opened bundle of a merge, and its bytes."""
    path = place / "group.hydra.safetensors"
    path.unlink(missing_ok=True)
    result = merge(adapters, path, size=size, workers=1, **more)
    return open_bundle(path), result.size


def factors_in(task: Any) -> dict[str, tuple[Any, Any]]:
    return {p: (x.B.astype("f4"), x.A.astype("f4")) for p, x in task.factors().items()}


def written(factors: Mapping[str, Factors], folder: Path, args: argparse.Namespace) -> Adapter:
    """Return an adapter of these factors, rounded to float16."""
    pairs = {p: (torch.tensor(x.B), torch.tensor(x.A)) for p, x in factors.items()}
    write_peft(folder, pairs, hub_id=args.hub_id, alpha=args.rank, dtype=torch.float16)
    return read_adapter(folder)


def measured(group: str, adapters: Sequence[Adapter], args: argparse.Namespace) -> Result:
    """Return bytes and drifts of a group, by way and adapter, and the comparison."""
    model, tokenizer = args.loaded
    prompts = {x.name: real_prompts(x, args.tasks, args.prompts) for x in adapters}
    judge = AnswerJudge(args.base, adapters, prompts, refits=True, loaded=args.loaded)
    originals = {x.name: {p: y.factors() for p, y in x.modules.items()} for x in adapters}
    whole = sum(2 * x.numbers for x in adapters)
    apart, spent = bundled(adapters, f"{args.share:%}", args.place, look=judge.look)
    ways = {"apart": {x: factors_in(apart[x]) for x in originals}}
    teachers = [teacher_of(originals[x], judge.answers(x), judge.lessons(x)) for x in originals]
    one = written(trained_together(model, teachers, args.rank), args.place / group, args)
    factors = {path: x.factors() for path, x in one.modules.items()}

    def refitted(_task: str, modules: CodedModules) -> Mapping[str, PartsRecord]:
        return refit(model, teachers, factors, modules())

    size = f"{spent / (2 * one.numbers):%}"
    ways["trained"] = dict.fromkeys(originals, factors)
    sizes = {"apart": spent}
    for way, look in (("coded", Look()), ("together", Look(refit=refitted))):
        bundle, sizes[way] = bundled([one], size, args.place, look=look)
        coded = factors_in(next(iter(bundle.values())))
        ways[way] = dict.fromkeys(originals, coded)
    drifts: dict[str, dict[str, Drift]] = {way: {} for way in ways}
    for adapter in adapters:
        name, language, _ = named_task(adapter.name, adapter.source.parent, args.tasks)
        data = read_task_file(args.tasks, name, language, "test")
        rows = [prompt_text(data.instruction, x.input) for x in data.rows[: args.rows]]
        asked = [encode_prompt(tokenizer, x) for x in rows]
        told = answered(model, tokenizer, asked, originals[adapter.name], judge.answer_tokens)
        reference = reference_of(model, told, originals[adapter.name])
        for way, by_task in ways.items():
            drifts[way][adapter.name] = drift_of(model, reference, by_task[adapter.name])
    result = {
        "bytes": {**sizes, "fp16": whole},
        "together_less_apart": compared(drifts["together"], drifts["apart"]),
        "ways": {way: {x: said(y) for x, y in by.items()} for way, by in drifts.items()},
    }
    short = {
        w: {x: (y["changed"], y["kl"]) for x, y in by.items()} for w, by in result["ways"].items()
    }
    print(group, result["bytes"], result["together_less_apart"], short, flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    args.place = ROOT / "build" / "together" / args.only[0]
    args.place.mkdir(parents=True, exist_ok=True)
    file = args.output / "together.json"
    head = provenance("one content for alike tasks against their own", seed=0)
    about = {"code": package_hash(), "prompts": args.prompts}
    for group in args.only:
        name, members = GROUPS[group]
        setting = {"group": group, "share": args.share, "rank": args.rank, "count": args.rows}
        setting |= about
        if any(all(x[key] == value for key, value in setting.items()) for x in groups_in(file)):
            continue
        recipe = read_recipe(recipe_of(name))
        args.base, args.hub_id = str(base_folder(recipe.base)), find_base(recipe.base).hub_id
        args.loaded = load_model(args.base)
        adapters = [x for x in original_adapters(name, some=True) if x.name in members]
        result = {**setting, **measured(group, adapters, args)}
        save_json(file, {**head, "groups": [*groups_in(file), result]}, "groups")


def groups_in(file: Path) -> list[Result]:
    """Return the groups of a result file, which another process may have written meanwhile."""
    groups: list[Result] = json.loads(file.read_text())["groups"] if file.is_file() else []
    return groups
