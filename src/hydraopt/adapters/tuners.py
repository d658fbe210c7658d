"""Every kind of adapter that PEFT names (``peft_type``), and what hydraopt does with each.

A tensor's name tells what it is: one of its parts, between the dots, is a name of the tuner's own
("ia3_l", "oft_R"). What stands in a tuner's file beside these (heads, biases) is told as in a LoRA.

Code that can apply only such changes to a model has to leave the others out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, Protocol, cast

from hydraopt.adapters.model import ExtraKind, Kind, Layout
from hydraopt.adapters.peft import changed_base
from hydraopt.adapters.tensors import refuse
from hydraopt.files import AnyPath

Treatment = Literal["low rank", "factors", "tensors", "refused"]
"""low rank   modules of dW = scale * B @ A.
factors    dW is a product of matrices, those of low rank are modules of their own.
tensors    every tensor is an extra; config and names come back as they were.
refused    what would come back would not be what was trained.
"""


@dataclass(frozen=True)
class Tuner:
    """Kind of adapter.

    name: PEFT's ``peft_type``.
    parts: the tuner's own tensor names, and the kind of each; "psoft_R.vector_a" goes before
        "psoft_R".
    together: names of which a module has all or none.
    why: reason why it is refused.
    """

    name: str
    treatment: Treatment
    parts: Mapping[str, ExtraKind] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    why: str = ""


_LORA: Final = "lora_A lora_B lora_embedding_A lora_embedding_B lora_magnitude_vector"

_TENSORS: Final[Mapping[str, str]] = {
    # Prompts: numbers that stand before the input, in its embeddings or the layers' keys, values.
    "PROMPT_TUNING": "prompt_embeddings",
    "P_TUNING": "prompt_embeddings",
    "PREFIX_TUNING": "prompt_embeddings",
    "CPT": "prompt_embeddings",
    "CARTRIDGE": "prompt_embeddings",
    "MULTITASK_PROMPT_TUNING": "prompt_embeddings+prefix_task_cols+prefix_task_rows",
    "ADAPTION_PROMPT": "adaption_prompt+adaption_gate",
    # Factors on outputs, inputs or norms, and additions to biases.
    "IA3": "ia3_l=tuner_ones",
    "LN_TUNING": "ln_tuning_layers=saved",
    "BEFT": "beft_bias",
    "ROAD": "road_theta+road_alpha=tuner_ones",
    # Rotations and reflections of the weights. Reflections begin as pairs that undo each other, so
    # what was trained is a small part of them.
    "OFT": "oft_R oft_embedding_R",
    "BOFT": "boft_R+boft_s=tuner_ones",
    "HRA": "hra_u=saved",
    "PSOFT": "psoft_R psoft_R.vector_a=tuner_ones psoft_R.vector_b=tuner_ones",
    # Few trained numbers over projections that a seed or the base model gives. The projections may
    # be rounded: an error of theirs is no worse than the same one of the numbers. FROD's V and
    # lambda_l are a decomposition of the base's own weights.
    "VERA": "vera_lambda_b+vera_lambda_d vera_A vera_B",
    "PVERA": "pvera_lambda_b+pvera_lambda_d pvera_A pvera_B",
    "RANDLORA": "randlora_lambda+randlora_gamma randlora_A randlora_B",
    "FROD": (
        "frod_lambda_l=saved+frod_lambda_s_values frod_s_indices=exact frod_s_size=exact "
        "frod_V=saved"
    ),
    "TINYLORA": "tinylora_v tinylora_A+tinylora_B tinylora_P",
    "ADAMSS": "adamss_A+adamss_B adamss_newB",
    # Vectors drawn from a bank, by the largest logits: an error must not change which these are.
    # Of the weights over the drawn ones the last is left out of the file, and is what the others
    # leave of 1: rounded, it might be negative.
    "VBLORA": (
        "vblora_vector_bank "
        "vblora_logits_A_topk_indices=exact+vblora_logits_A_topk_weights=exact+"
        "vblora_logits_B_topk_indices=exact+vblora_logits_B_topk_weights=exact "
        "vblora_logits_A=saved+vblora_logits_B=saved"
    ),
    "UNILORA": (
        "unilora_theta_d unilora_scales_A unilora_scales_B unilora_indices_A=exact "
        "unilora_indices_B=exact"
    ),
    # Some of the numbers of dW, or of its transform.
    "FOURIERFT": "fourierft_spectrum",
    "WAVEFT": "waveft_spectrum",
    "C3A": "c3a_kernel",
    "SHIRA": "shira_weight+shira_indices=exact",
    "SUPERTUNING": (
        "supertuning_values supertuning_lora_A+supertuning_lora_B supertuning_indices=exact"
    ),
    # Pairs of matrices whose change is not their product alone.
    "MISS": "miss_block",
    "BONE": "bone_block",
    "DELORA": "delora_A+delora_B+delora_lambda delora_w_norm",
    "GRALORA": "gralora_A+gralora_B gralora_A_general+gralora_B_general",
    "GLORA": "glora_A+glora_B+glora_C+glora_D+glora_E",
    "HIRA": "hira_A+hira_B hira_embedding_A+hira_embedding_B",
    "PEANUT": "peanut_A+peanut_B peanut_encoders peanut_decoders",
    "LILY": "lily_A+lily_B+lily_router",
    "POLY": "poly_lora_A+poly_lora_B+poly_router",
    # These take the place of a part of the base's weights, so zero is not "no change".
    "OSF": "osf_svd_params=saved",
    "DEFT": "deft_P deft_R=saved",
    "SHADOW": (
        "shadow_down+shadow_up shadow_update_transform shadow_update_gate shadow_projection "
        "shadow_backbone=saved shadow_head=saved"
    ),
    "TRAINABLE_TOKENS": "trainable_tokens_delta=token_rows",
    # LoRAs of which the two matrices, as they are stored, are not all of B and A.
    "LORA, KaSA": f"{_LORA} lora_diag",
    "LORA, BD-LoRA": _LORA,
    "LORA, QALoRA": _LORA,
    "LORA, MonteCLoRA": f"{_LORA} lora_monteclora_sampler",
}
"""Parts of the tuners whose tensors are all extras: names separated by spaces.

"NAME=KIND" is of another kind than "tuner". Of names joined by "+" a module has all or none.
"""


def _row(name: str, treatment: Treatment, text: str, why: str = "") -> Tuner:
    """Return the tuner of a text in the form of :data:`_TENSORS`."""
    parts: dict[str, ExtraKind] = {}
    together = []
    for group in text.split():
        names = []
        for part in group.split("+"):
            own, _, kind = part.partition("=")
            parts[own] = cast("ExtraKind", kind or "tuner")
            names.append(own)
        together.append(tuple(names))
    return Tuner(name, treatment, parts, tuple(together), why)


_ROWS: Final = (
    _row("LORA", "low rank", ""),
    _row("ADALORA", "low rank", "lora_A+lora_B+lora_E"),
    _row("LOHA", "factors", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2"),
    _row("LOKR", "factors", "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2"),
    *(_row(name, "tensors", text) for name, text in _TENSORS.items()),
    _row(
        "LORA, Arrow",
        "refused",
        "",
        "an Arrow router has no weights of its own, it chooses among other adapters",
    ),
    _row(
        "XLORA",
        "refused",
        "internal_xlora_classifier=saved",
        "its file holds the router alone; the LoRAs between which it chooses lie in folders of "
        "their own, by paths of the machine that trained it",
    ),
)

TUNERS: Final[Mapping[str, Tuner]] = {row.name: row for row in _ROWS}
"""All of them, by ``peft_type``, and "LORA, NAME" for variants that are not scale * B @ A. BONE is
what older versions of PEFT call MISS."""

_OWNERS: Final[Mapping[str, str]] = {
    part: row.name
    for row in reversed(_ROWS)
    if row.name != "ADALORA" and not row.name.startswith("LORA")
    for part in row.parts
}

_VARIANTS: Final = {
    "kasa_config": "KaSA", "use_bdlora": "BD-LoRA", "use_qalora": "QALoRA",
    "monteclora_config": "MonteCLoRA", "arrow_config": "Arrow",
}  # fmt: skip
"""Settings that make a LoRA another tuner."""


def tuner_named(config: Mapping[str, Any] | None) -> str:
    """Return the ``peft_type`` of a config as text; LORA if it states none.

    "LORA, KaSA" is a variant with a row of its own.
    """
    settings = config or {}
    value = settings.get("peft_type")
    if value is not None and value != "LORA":
        return str(value)[:80]
    variant = next((name for key, name in _VARIANTS.items() if settings.get(key)), None)
    return "LORA" if variant is None else f"LORA, {variant}"


def tuner_of(config: Mapping[str, Any], file: AnyPath) -> Tuner:
    """Return the tuner of a config. Raises AdapterFormatError, naming it, if unknown or refused."""
    name = tuner_named(config)
    tuner = TUNERS.get(name)
    if tuner is None:
        refuse(
            "a kind of adapter that is not known",
            file,
            got=f"peft_type {name!r}",
            expected=", ".join(x for x in TUNERS if TUNERS[x].treatment != "refused"),
            do="Only what PEFT of a version known here can load comes back right; leave it out",
        )
    if tuner.treatment == "refused":
        refuse(f"{name} adapters cannot be merged: {tuner.why}", file, do="Leave this one out")
    return tuner


def other_tuner(config: Mapping[str, Any]) -> str | None:
    """Return the tuner's name, if what it does is not W + B A of its modules; else None."""
    name = tuner_named(config)
    return None if name in ("LORA", "ADALORA") else name


def part_of(name: str, tuner: Tuner) -> tuple[str, str] | None:
    """Return (stem, part) of a tensor name: its module, and the tuner's own name in it."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        longer = ".".join(parts[i : i + 2])
        for own in (longer, part):
            if own in tuner.parts:
                return ".".join(parts[:i]), own
    return None


def owner_of(name: str) -> str | None:
    """Return the first tuner but LoRA that has a part of this tensor's name."""
    for part in name.split("."):
        if part in _OWNERS:
            return _OWNERS[part]
    return None


def refuse_method(name: str, file: AnyPath) -> NoReturn:
    """Refuse a tensor by the method that its name tells, where no config states that one."""
    owner = owner_of(name)
    if owner is None:
        refuse(
            f"tensor {name[:200]!r} is of a method that is not known",
            file,
            expected="LoRA, LoHa (hada_w1_a ...), LoKr (lokr_w1 ...) or OFT (oft_blocks)",
            do="Extract a plain LoRA from it first, or leave it out",
        )
    stem, _ = part_of(name, TUNERS[owner]) or ("", "")
    refuse(
        f"tensor {name[:200]!r} is called as those of {owner} are, and no config states the method",
        file,
        module=stem[:200] or None,
        expected="an adapter_config.json with its peft_type",
        do="Put the config that PEFT saved beside it; leave out what another program saved",
    )


def changing(kinds: Mapping[str, ExtraKind], config: Mapping[str, Any]) -> dict[str, ExtraKind]:
    """Return the extras, by key, that may change the base.

    The empty tensors of AdaLoRA's modules without any rank left are excluded; only PEFT needs them.
    """
    if tuner_named(config) != "ADALORA":
        return dict(kinds)
    pruned = (key for key, kind in kinds.items() if kind == "exact")
    idle = {key for key in pruned if part_of(key, TUNERS["ADALORA"]) is not None}
    return {key: kind for key, kind in kinds.items() if key not in idle}


class Sited(Protocol):
    """Module of an adapter, or as a bundle's manifest lists it."""

    @property
    def kind(self) -> Kind: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def groups(self) -> int: ...


class Changing(Protocol):
    """Adapter, or task of a bundle."""

    @property
    def modules(self) -> Mapping[str, Sited]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


def not_linear(module: Sited) -> str | None:
    """Describe a module that is not a whole linear one; None for a whole linear one."""
    if module.kind != "linear":
        return f"{module.kind} factors"
    if module.layout == "factor":
        return "factors of products"
    if module.layout in ("rows", "experts") or module.groups > 1:
        return f"factors of {module.layout} in groups"
    return None


def _other_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings with which PEFT computes something other than W + B A."""
    for setting in ("alora_invocation_tokens", "layer_replication"):
        if config.get(setting):
            yield f"the setting {setting}"
    how = changed_base(config)
    if how is not None:
        yield f"an initialisation that changes the base, {how}"


def beyond_linear(task: Changing) -> Iterator[str]:
    """Yield the reasons why B A on the base's linear modules is not the whole task.

    The reasons are modules of other kinds, or another base. Tensors that are stored separately,
    such as a head, are not considered here.
    """
    yield from sorted({odd for x in task.modules.values() if (odd := not_linear(x)) is not None})
    yield from _other_settings(task.config)


def beyond_lora(task: Changing) -> Iterator[str]:
    """Yield the same reasons for a task that may belong to another tuner than LoRA."""
    tuner = other_tuner(task.config)
    if tuner is not None:
        yield f"the tuner {tuner}"
    yield from beyond_linear(task)
