"""Tasks that are low-rank changes of linear layers and nothing else, which is what engines load."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from hydraopt.adapters.keys import spell
from hydraopt.adapters.model import ExtraKind, Kind, Layout
from hydraopt.adapters.peft import changed_base
from hydraopt.adapters.tuners import changing, other_tuner
from hydraopt.bundle.peft.below import Base, is_of_base, layer_below, weights_at_hand
from hydraopt.bundle.peft.layout import Pair
from hydraopt.bundle.spec import ModuleEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.errors import ExportError, explain
from hydraopt.linalg.shapes import Factors

__all__ = ["ALORA", "LINEAR", "plain_pairs", "refuse_all_but", "refuse_settings", "refused"]

LINEAR: Final[tuple[Kind, ...]] = ("linear",)
_PLAIN: Final[tuple[Layout, ...]] = ("plain",)

# What an extra is, in words; see hydraopt.adapters.model.ExtraKind.
_KINDS: Final = {
    "dora_magnitude": "a DoRA magnitude",
    "lora_bias": "a bias of lora_B",
    "bias": "a trained bias",
    "token_rows": "trained rows of an embedding",
    "saved": "a tensor that is saved whole",
    "tuner": "a tensor of another tuner than LoRA",
    "tuner_ones": "a tensor of another tuner than LoRA",
    "exact": "a tensor of another tuner than LoRA",
}


ALORA: Final = "alora_invocation_tokens"
"""PEFT's setting for a LoRA that acts only after these tokens."""


def plain_pairs(
    task: TaskAdapter,
    engine: str,
    settings: Collection[str] = (),
    base: Base = None,
    layouts: Collection[Layout] = _PLAIN,
) -> list[Pair]:
    """Return the task's pairs by module path: A (r, n) and B (m, r) of linear layers, scale inside.

    engine: who is to load them, for messages. Names are those of the paths, whatever the original
    file called them.  settings: such as change what pairs mean and have a place in the format.
    base: as in :func:`refuse_all_but`.
    layouts: "plain", and "experts" for formats that hold all experts of a layer in one pair.

    Raises ExportError, naming adapter and module, for everything else a task may hold: tensors that
    are not low-rank (biases, saved modules, DoRA, token rows), embeddings, convolutions, fused or
    stacked layers, two pairs on one layer, and settings that change what the pairs mean.
    """
    refuse_all_but(task, engine, layouts=layouts, settings=settings, base=base)
    factors = task.factors()
    grouped: dict[str, list[tuple[int, ModuleEntry, Factors]]] = {}
    for path, module in sorted(task.modules.items()):
        stem = module.stem if module.layout == "experts" else path
        grouped.setdefault(stem, []).append((module.group, module, factors[path]))
    return [
        Pair((spell(path, "A"), spell(path, "B")), path, tuple(sorted(members, key=lambda x: x[0])))
        for path, members in grouped.items()
    ]


def refuse_all_but(
    task: TaskAdapter,
    engine: str,
    kinds: Collection[Kind] = LINEAR,
    extras: Collection[ExtraKind] = (),
    layouts: Collection[Layout] = _PLAIN,
    settings: Collection[str] = (),
    base: Base = None,
) -> None:
    """Raise ExportError, naming adapter and module, for what is none of these.

    kinds: of modules that are well, unless fused, stacked or wrapped twice.  extras: of tensors.
    layouts: of modules.  settings: those of :func:`refuse_settings` that are well.
    base: the base model's folder, or tensors of it: the weight of a layer below a pair is well if
        it is the base's.
    Settings that change what the pairs mean are refused as well, and an adapter without modules.
    """
    refuse_settings(task, engine, settings)
    others = changing(task.extra_kinds, task.config)
    for key, kind in others.items():
        if kind not in extras and layer_below(task, key) is not None:
            _refuse_below(task, engine, key, base)
        elif kind not in extras:
            raise refused(task, engine, _KINDS[kind], key)
    for path, module in task.modules.items():
        problem = _problem(module, kinds, layouts)
        if problem is not None:
            raise refused(task, engine, problem, path)
    if not task.modules and not others:
        raise refused(task, engine, "an adapter without any module")


def _refuse_below(task: TaskAdapter, engine: str, key: str, base: Base) -> None:
    weights = weights_at_hand(base)
    if weights and is_of_base(task, key, weights):
        return
    other = "; it is not that of the base given" if weights else ""
    raise ExportError(
        explain(
            f"{engine} cannot hold the weight of the layer below a pair{other}",
            adapter=task.name,
            module=key,
            do="Leave it out of the adapter's file and merge again, or export with --format peft"
            if weights
            else "It may be the base's own: give the base's folder, with weights, where the format "
            "takes a base, or leave the tensor out of the adapter's file and merge again",
        )
    )


def refuse_settings(task: TaskAdapter, engine: str, but: Collection[str] = ()) -> None:
    """Raise ExportError for settings by which PEFT computes something else than W + B A.

    but: names of settings that the format has a place for.
    """
    tuner = other_tuner(task.config)
    if tuner is not None:
        raise refused(task, engine, f"a task of PEFT's {tuner}")
    start = changed_base(task.config)
    if start is not None:
        raise refused(task, engine, f"init_lora_weights {start!r}, which also changes the base")
    for setting, what in (
        (ALORA, "aLoRA, which acts only after its invocation tokens"),
        ("layer_replication", "layer_replication, which is another base model"),
    ):
        if setting not in but and task.config.get(setting):
            raise refused(task, engine, what)


def refused(task: TaskAdapter, engine: str, what: str, module: str | None = None) -> ExportError:
    """Return the error for something an engine has no place for."""
    kinds = {x.layout for x in task.modules.values()} | set(task.extra_kinds.values())
    # PEFT has no match for what LyCORIS adds to kohya files.
    lycoris = task.entry.format == "kohya" and bool(kinds & {"factor", "tuner", "tuner_ones"})
    return ExportError(
        explain(
            f"{engine} cannot hold {what}",
            adapter=task.name,
            module=module,
            do=f"Export it with --format {'kohya' if lycoris else 'peft'}, which holds more",
        )
    )


def _problem(
    module: ModuleEntry, kinds: Collection[Kind], layouts: Collection[Layout]
) -> str | None:
    """Return why a module is not a plain layer of one of these kinds; None if it is."""
    if module.kind not in kinds:
        return f"a low-rank change of {'an' if module.kind[0] == 'e' else 'a'} {module.kind}"
    if module.layout == "factor" and "factor" not in layouts:
        return "a factor of a product"
    if module.layout not in layouts:
        return "layers that are fused or stacked in one tensor"
    if "base_layer" in module.stem.split(".") and module.layout != "experts":
        return "two pairs on one layer"
    return None
