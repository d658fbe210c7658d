"""Apply every command that takes a file to one damaged file, as library calls.

Run inside a worker of fuzz.py. A :class:`Verdict` says what became of the case.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OWN = {"peft": "peft", "kohya": "kohya", "diffusers": "diffusers", "loralib": "peft", "mlx": "mlx"}
"""The format of export that gives back what a file of that format holds."""
LIMITS: tuple[dict[str, Any], ...] = (
    {"lossless": True}, {"lossless": True}, {"error": 0.3}, {"size": "10%"}, {"max_error": 0.2},
    {"size": "10%"}, {"error": 1e-300}, {"size": "1%"}, {"forms": ["private"]}, {"alpha": 1e300},
)  # fmt: skip
MOST_TASKS = 3


class Broken(Exception):
    """What was accepted cannot be verified or given back."""


@dataclass
class Verdict:
    """outcome: refused, accepted, traceback, broken, hang, memory.

    detail: of a failure or refusal.
    nameless: refusals of what a file holds that name neither file nor adapter, or no remedy.
    """

    outcome: str
    detail: str = ""
    nameless: list[str] = field(default_factory=list)


def judged(work: Callable[[], None], path: Path, limit: float = math.inf) -> Verdict:
    """Return the outcome of ``work``; anything but a HydraoptError is a failure.

    limit: seconds of the processor that it may take.
    """
    started = time.process_time()
    verdict = _outcome(work, path)
    took = time.process_time() - started
    return verdict if took <= limit else Verdict("hang", f"{took:.1f} s of at most {limit:.1f}")


def _outcome(work: Callable[[], None], path: Path) -> Verdict:
    from hydraopt.errors import BudgetError, HydraoptError, UsageError

    try:
        work()
        return Verdict("accepted")
    except HydraoptError as error:
        text = str(error)
        named = path.name in text or path.parent.name in text or "[adapter " in text
        told = named and ". " in text
        nameless = [] if told or isinstance(error, UsageError | BudgetError) else [text[:200]]
        return Verdict("refused", type(error).__name__, nameless)
    except Broken as error:
        return Verdict("broken", str(error)[:300])
    except MemoryError as error:
        return Verdict("memory", f"MemoryError: {error}"[:200])
    except BaseException as error:  # what a user would see as a crash
        if "DefaultCPUAllocator" in str(error) or "Unable to allocate" in str(error):
            return Verdict("memory", str(error)[:200])
        import traceback

        frames = traceback.extract_tb(error.__traceback__)
        own = [x for x in frames if "/hydraopt/" in x.filename] or frames
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        return Verdict("traceback", f"{type(error).__name__} at {where}: {error}"[:300])


def exercise_adapter(path: Path, scratch: Path, seed: str) -> Verdict:
    """Read everything; merge, verify against it, export; compare bit for bit if lossless."""
    rng = random.Random(seed)
    limit = dict(rng.choice(LIMITS))

    def work() -> None:
        from hydraopt import merge, open_bundle, read_adapter, verify_bundle
        from hydraopt.bundle.peft.folder import peft_adapter

        alpha = limit.pop("alpha", None)
        adapter = read_adapter(path, alpha=alpha)
        bundle = scratch / "x.hydra.safetensors"
        if not adapter.tensors:
            raise Broken("an adapter without tensors was read")
        merge([path], bundle, workers=1, alpha=alpha, **limit)
        report = verify_bundle(bundle, [adapter])
        if not report.ok:
            raise Broken(f"merged ({limit}), but: {report.problems[0]}")
        (name,) = open_bundle(bundle)
        _give_back(open_bundle(bundle)[name], adapter, scratch, "lossless" in limit)
        if rng.random() < 0.2:
            peft_adapter(open_bundle(bundle)[name], rng.choice(["float32", "bfloat16"]), True)

    return judged(work, path)


def _give_back(task: Any, adapter: Any, scratch: Path, lossless: bool) -> None:
    """Export in the adapter's own format or as PEFT, in its dtype or float32; one has to work."""
    from hydraopt import read_adapter
    from hydraopt.errors import HydraoptError
    from hydraopt.export import FORMATS, export_task

    own, problems = OWN[adapter.format], []
    # Numbers that float16 cannot hold are refused with the advice to take float32.
    for form, dtype in ((own, "same"), (own, "float32"), ("peft", "same"), ("peft", "float32")):
        target = scratch / f"back-{form}-{dtype}{FORMATS[form].suffix}"
        try:
            export_task(task, target, format=form, dtype=dtype)
        except HydraoptError as error:
            problems.append(f"{form}: {error}")
            continue
        back = read_adapter(target)
        if (form, dtype) == (own, "same") and lossless and adapter.format != "loralib":
            _compare(adapter, back)
        if (
            form == own
            and len(back.modules) != len(adapter.modules)
            and adapter.format != "loralib"
        ):
            raise Broken(f"{len(adapter.modules)} modules went in, {len(back.modules)} came back")
        return
    raise Broken("merged, but not exported: " + " | ".join(x[:140] for x in problems))


def _compare(adapter: Any, back: Any) -> None:
    if set(adapter.tensors) != set(back.tensors):
        odd = sorted(set(adapter.tensors) ^ set(back.tensors))[:2]
        raise Broken(f"lossless, but other tensors came back: {odd}")
    for key, tensor in adapter.tensors.items():
        found = back.tensors[key]
        if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            raise Broken(f"lossless, but {key} came back as {found.dtype} {found.shape}")
        if found.raw() != tensor.raw():
            raise Broken(f"lossless, but {key} came back with other bytes")


def exercise_bundle(path: Path, scratch: Path, base: Path, seed: str, limit: float) -> Verdict:
    """Open, verify, inspect, export and shrink; the first command that fails decides.

    limit: seconds of the processor that each command may take.
    """
    rng = random.Random(seed)
    verdicts = [
        judged(lambda: _verify(path), path, limit),
        judged(lambda: _inspect(path), path, limit),
        judged(lambda: _export(path, scratch, base, rng), path, limit),
    ]
    if rng.random() < 0.25:
        verdicts.append(judged(lambda: _shrink(path, scratch, rng), path, limit))
    nameless = [x for verdict in verdicts for x in verdict.nameless]
    worst = next((x for x in verdicts if x.outcome not in ("accepted", "refused")), None)
    if worst is None:
        worst = next((x for x in verdicts if x.outcome == "refused"), verdicts[0])
    return Verdict(worst.outcome, worst.detail, nameless)


def _verify(path: Path) -> None:
    from hydraopt import verify_bundle
    from hydraopt.errors import BundleFormatError

    report = verify_bundle(path)
    if not report.ok:
        raise BundleFormatError(report.problems[0])


def _inspect(path: Path) -> None:
    import json

    from hydraopt.files import to_json
    from hydraopt.inspect import inspect_bundle

    json.dumps(to_json(inspect_bundle(path)))


def _export(path: Path, scratch: Path, base: Path, rng: random.Random) -> None:
    """Export some tasks in a format.

    Raises Broken if a task that a sound bundle holds is called damaged.
    """
    from hydraopt import open_bundle, verify_bundle
    from hydraopt.errors import BundleFormatError, ExportError, UsageError
    from hydraopt.export import FORMATS, export_task

    bundle = open_bundle(path)
    form = rng.choice([*FORMATS, "peft", "peft"])
    row = FORMATS[form]
    options: dict[str, Any] = {"base": base} if row.needs_base else {}
    if "uniform_rank" in row.takes and rng.random() < 0.3:
        options["uniform_rank"] = True
    for name in list(bundle)[:MOST_TASKS]:
        target = scratch / f"out{row.suffix}"
        try:
            export_task(bundle[name], target, format=form, overwrite=True, **options)
        except (ExportError, UsageError):
            continue
        except BundleFormatError as error:
            if verify_bundle(path).ok:
                raise Broken(f"verified, but not exported as {form}: {error}") from error
            raise
        finally:
            shutil.rmtree(target, ignore_errors=True)


def _shrink(path: Path, scratch: Path, rng: random.Random) -> None:
    from hydraopt import shrink

    limit: dict[str, Any] = rng.choice([{"size": "3%"}, {"error": 0.4}, {"error": 1e-300}])
    shrink(path, scratch / "smaller.hydra.safetensors", workers=1, **limit)
