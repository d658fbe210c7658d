"""Score the bundles of a set, task by task, against its original adapters.

    python -m benchmarks.quality evidence SET --tasks TASKS [--plan sizes] [--rows 128]
    python -m benchmarks.quality evidence SET --tasks TASKS --plan weights --split validation
    python -m benchmarks.quality evidence SET --tasks TASKS --plan harm --sizes 10% 5%

SET is one of benchmarks/quality/sets.py; its adapters are those that its recipe in zoo/recipes
trains. Every method of the plan is merged to a file first (kept under build/), then the base, the
originals and all bundles answer the test rows of each task. The result is saved after every task
and a second call goes on where the first stopped: benchmarks/results/quality/SET.PLAN.json, in the
schema of hydraopt eval with ``methods`` added. What is tuned is tuned on the validation split
(SET.PLAN.validation.json) without writing answers: losses, KL and exact match tell enough.

The plan "harm" has sizes as they are beside sizes whose parts are trained on answers to prompts,
"refit-alone" the latter alone. Prompts are training rows, or with ``--prompts-from validation``
rows that the adapter has not seen. A refit takes long: ``--keep-bundles`` takes one that lies under
build/ whatever code made it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.harness.building import inputs_of
from benchmarks.quality.harness.bundlescores import is_as_merged, score
from benchmarks.quality.harness.judging import ASKS_PROMPTS, add_prompts, judge_of, prompts_hash
from benchmarks.quality.harness.looking import seen_by
from benchmarks.quality.harness.options import add_set
from benchmarks.quality.sets import PLANS, Method, recipe_of, set_of
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.basemodel.products import products_of
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.compress.measure import measure_named
from hydraopt.evaluate.compare import EvaluationRequest
from hydraopt.files.reading import file_hash
from hydraopt.harm.judge import POWER
from hydraopt.inspect.adapters import inspect_adapters
from hydraopt.merging.look import Look
from hydraopt.merging.merge import merge
from hydraopt.merging.options import DEFAULT_MEASURE

__all__ = [
    "chosen",
    "merged",
    "methods_of",
    "options_of",
    "original_adapters",
    "request_for",
    "result_name",
    "those_of",
]


def original_adapters(set_name: str, some: bool = False) -> list[Adapter]:
    """The set's adapters; SystemExit names the command when one is not trained, unless ``some`` of
    them will do."""
    from zoo.recipe import read_recipe

    recipe = read_recipe(recipe_of(set_name))
    folders = [ROOT / recipe.output / plan.name for plan in recipe.plans]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if some:
        folders = [folder for folder in folders if folder.is_dir()]
    if not folders or (missing and not some):
        raise SystemExit(
            f"{len(missing)} adapters of {set_name} are missing ({missing[0]} ...); train them:\n"
            f"  python -m zoo.train --recipe zoo/recipes/{set_name}.json --tasks TASKS"
        )
    adapters = read_adapters([str(folder) for folder in folders])
    found = set_of(set_name, {adapter.name: adapter.content_hash() for adapter in adapters})
    if found != set_name:
        print(
            f"these are not the adapters that {set_name} pins; tables name their rows {found}",
            file=sys.stderr,
        )
    return adapters


def merged(
    set_name: str,
    adapters: Sequence[Adapter],
    method: Method,
    tasks: Path,
    keep: bool = False,
    place: str = "",
) -> tuple[Path, Any]:
    """The bundle of a method, and what its merge said; merged now unless today's code has already
    put it under build/ from these adapters with these options. keep: or any other code. place: a
    folder below build/evidence, that of the set unless given."""
    path = ROOT / "build" / "evidence" / (place or set_name) / method.label
    note = path.with_suffix(".json")
    made_of = {"options": dict(method.options), "code": f"{package_hash()}-{inputs_of(adapters)}"}
    if ASKS_PROMPTS & method.options.keys():
        made_of["prompts"] = prompts_hash(adapters, tasks)
    before = json.loads(note.read_text()) if note.is_file() else {}
    if not _still_holds(path, before, made_of, keep):
        path.parent.mkdir(parents=True, exist_ok=True)
        with products_of("bfloat16"):
            options = options_of(set_name, adapters, method, tasks)
            made = merge(adapters, path, **method.limit, **options)
        said = {
            "method": method.name,
            "setting": method.size,
            **made_of,
            "bytes": made.size,
            "size_pct": round(100 * made.fraction, 4),
            "errors": {name: round(error, 6) for name, error in made.errors.items()},
            "forms": dict(made.forms),
            "merge_seconds": round(made.seconds, 2),
            "sha256": file_hash(path),
        }
        if (look := options.get("look")) and (judge := look.judge):
            said["cut"] = {name: count for name, (count, _) in judge.cut().items()}
        save_json(note, said)
        print(f"{method.label}: {made.size:,} bytes in {made.seconds:.1f} s", flush=True)
    return path, json.loads(note.read_text())


def _still_holds(
    path: Path, before: Mapping[str, Any], made_of: Mapping[str, Any], keep: bool
) -> bool:
    """Whether a bundle need not be made again. before: what was noted when it was."""
    now = json.loads(json.dumps(made_of))
    if not before or not path.is_file() or path.stat().st_size != before["bytes"]:
        return False
    if not is_as_merged(path, before):
        return False
    if {key: before.get(key) for key in now} == now:
        return True
    inputs = [note.get("code", "").rpartition("-")[2] for note in (before, now)]
    asked = [key for key in now if key != "code"]
    alike = all(before.get(key) == now[key] for key in asked) and inputs[0] == inputs[1]
    if keep and alike:
        print(f"{path.name}: kept, of the code {before['code'].partition('-')[0]}", flush=True)
    return keep and alike


def options_of(
    set_name: str, adapters: Sequence[Adapter], method: Method, tasks: Path
) -> dict[str, Any]:
    """Options of hydraopt.merge; those of a plan name what is looked up or made here.

    tuned: other values for fields of the default measure.
    sensitivity: texts that module weights are measured on.
    temper: power of these weights; default that of merge --base.
    judge: split and count of the prompts that harm is measured on, and tokens of an answer.
    refit: True, or the tasks, whose coded parts are trained on these prompts and on as many
    training rows as judge says.
    """
    options = dict(method.options)
    asks = ASKS_PROMPTS & options.keys()
    base = request_for(set_name, tasks, None, "float32").base if asks else ""
    folder = ROOT / "build" / "evidence" / set_name
    if "judge" in options:
        asked = options["judge"]
        rows = asked["split"], asked["count"], asked.get("learned", 0)
        tokens = asked.get("answer_tokens", ANSWER_TOKENS)
        judge = judge_of(base, tuple(adapters), tasks, *rows, answer_tokens=tokens)
        options["judge"] = judge
        fitted = options.pop("refit", False)
        if fitted:
            names = {adapter.name for adapter in adapters} if fitted is True else set(fitted)
            options["trained"] = lambda name, modules: (
                judge.refit(name, modules) if name in names else {}
            )
    if "tuned" in options:
        measure = measure_named(options.get("measure", DEFAULT_MEASURE))
        options["measure"] = replace(measure, **options.pop("tuned"))
    if "sensitivity" in options:
        # Who measures harm on prompts sees on the first of them what matters, as the command does.
        judged = method.options.get("judge") or {}
        given = {key: judged[key] for key in ("split", "count") if key in judged}
        seen = seen_by(base, adapters, options["sensitivity"], tasks, folder, **given)
        power = options.pop("temper", POWER)
        options["sensitivity"] = {
            name: {path: value**power for path, value in mine.items()}
            for name, mine in seen.items()
        }
    options["look"] = Look(
        options.pop("judge", None), options.pop("sensitivity", None), options.pop("trained", None)
    )
    return options


def guessed(set_name: str, adapters: Sequence[Adapter]) -> list[dict[str, float]]:
    """What ``hydraopt inspect`` says of size and error before anything is merged."""
    name = f"guess-{package_hash()}-{inputs_of(adapters)}.json"
    note = ROOT / "build" / "evidence" / set_name / name
    if not note.is_file():
        points = inspect_adapters([str(adapter.source.parent) for adapter in adapters]).curve
        rows = [{"fraction": x.fraction, "error": x.error} for x in points]
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps([{k: round(v, 6) for k, v in row.items()} for row in rows]))
    found: list[dict[str, float]] = json.loads(note.read_text())
    return found


def request_for(set_name: str, tasks: Path, rows: int | None, products: str) -> EvaluationRequest:
    """How a set is scored: rows as long as those that were trained on, answers of the bundles."""
    from zoo.bases import base_folder
    from zoo.recipe import read_recipe

    recipe = read_recipe(recipe_of(set_name))
    longest = max((plan.max_tokens or 0 for plan in recipe.plans), default=0)
    return EvaluationRequest(
        str(base_folder(recipe.base)),
        tasks,
        rows=rows,
        tokens=longest or None,
        write_base=False,
        products=products,
    )


def methods_of(
    plan: str,
    sizes: Sequence[str],
    split: str,
    count: int,
    only: Sequence[str] = (),
    learned: int = 0,
    named: Sequence[str] = (),
) -> list[Method]:
    """A plan's methods. sizes: instead of its own, unless empty. split, count: of the prompts, for
    those that are judged. only: tasks that are refitted, all if empty.
    learned: training rows that a refit takes besides. named: methods of these names alone, all if
    empty; SystemExit for a name that the plan does not have."""
    unknown = set(named) - {method.name for method in PLANS[plan]}
    if unknown:
        raise SystemExit(f"the plan {plan} has no method {', '.join(sorted(unknown))}")
    methods = []
    for method in (x for x in PLANS[plan] if x.name in named or not named):
        options = dict(method.options)
        if "judge" in options:
            options["judge"] = {"split": split, "count": count}
        if "refit" in options and learned:
            options["judge"]["learned"] = learned
        if "refit" in options and only:
            options["refit"] = sorted(only)
        methods.append(replace(method, options=options))
    if not sizes:
        return methods
    kinds = {method.name: method for method in methods}
    return [replace(method, size=size) for method in kinds.values() for size in sizes]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    add_set(parser)
    parser.add_argument("--plan", choices=sorted(PLANS), default="sizes")
    parser.add_argument("--rows", type=int, default=128, help="test rows of a task")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="instead of the plan's own")
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="METHOD", help="of the plan, these alone"
    )
    add_prompts(parser)
    parser.add_argument(
        "--learn", type=int, default=0, help="training rows that a refit takes besides"
    )
    parser.add_argument(
        "--keep-bundles",
        action="store_true",
        help="take bundles under build/ that other code made of the same",
    )
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ADAPTER",
        help="these alone; * stands for any text",
    )
    parser.add_argument(
        "--refit",
        nargs="+",
        default=[],
        metavar="ADAPTER",
        help="what a plan with refits refits, where it is not what is scored",
    )
    parser.add_argument(
        "--take",
        nargs="+",
        default=[],
        metavar="[NAME.]PLAN",
        help="tasks of these results are taken over where factors are the same",
    )
    parser.add_argument("--name", help="saved as SET-NAME.PLAN.json: sizes that are scored apart")
    parser.add_argument(
        "--trained", action="store_true", help="those that are trained, where some are not yet"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = original_adapters(args.set, args.trained)
    names = [adapter.name for adapter in adapters]
    only = chosen(names, args.only)
    asked = args.prompts_from, args.prompts, chosen(names, args.refit or args.only), args.learn
    methods = methods_of(args.plan, args.sizes or (), *asked, args.methods)
    named = result_name(args.set, args.name)
    if args.refit and not any("refit" in method.options for method in methods):
        raise SystemExit(f"--refit: the plan {args.plan} refits nothing")
    made = [merged(args.set, adapters, method, args.tasks, args.keep_bundles) for method in methods]
    tuning = args.split == "validation"
    request = replace(
        request_for(args.set, args.tasks, args.rows, args.products),
        split=args.split,
        write=not tuning,
        only=only,
    )
    out = QUALITY / f"{named}.{args.plan}{'.validation' if tuning else ''}.json"
    origin = provenance(f"{args.set}: scores of {args.plan}", seed=request.seed)
    extra = {
        "set": args.set,
        "plan": args.plan,
        "guess": guessed(args.set, adapters),
        "command": origin["command"],
        "hardware": origin["hardware"],
    }
    score(out, adapters, made, request, extra, [_result(args.set, x) for x in args.take])


def _result(set_name: str, asked: str) -> Path:
    """The result of a set that ``--take`` names; SystemExit where there is none."""
    name, _, plan = asked.rpartition(".")
    path = QUALITY / f"{set_name}{'-' if name else ''}{name}.{plan}.json"
    if not path.is_file():
        raise SystemExit(f"--take {asked}: there is no {path.name}")
    return path


def result_name(set_name: str, name: str) -> str:
    """What the file of a result begins with: the set, and what ``--name`` adds.

    SystemExit for a name that is no part of a file's.
    """
    if name and not re.fullmatch(r"[\w-]+", name):
        raise SystemExit(f"--name {name} is no part of a file's name: letters and digits")
    return f"{set_name}-{name}" if name else set_name


def those_of(adapters: Sequence[Adapter], patterns: Sequence[str]) -> list[Adapter]:
    """The adapters that any of the patterns names, as of :func:`chosen`; all for no patterns."""
    names = chosen([adapter.name for adapter in adapters], patterns)
    return [adapter for adapter in adapters if not patterns or adapter.name in names]


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The adapters that any of the patterns names, * for any text; none for no patterns.

    SystemExit where patterns name none.
    """
    only = [x for x in names if any(fnmatchcase(x, pattern) for pattern in patterns)]
    if patterns and not only:
        raise SystemExit(f"{' '.join(patterns)} names no adapter of {', '.join(names)}")
    return only
