"""Every kind of adapter that PEFT names (``peft_type``), and what hydraopt does with each.

A tensor's name tells what it is: one of its parts, between the dots, is a name of the tuner's own
("ia3_l", "oft_R"). What stands in a tuner's file beside these (heads, biases) is told as in a LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn

from hydraopt.adapters.model import ExtraKind
from hydraopt.adapters.rawtensor import refuse
from hydraopt.files.url import AnyPath

__all__ = [
    "TUNERS",
    "Tuner",
    "changing",
    "other_tuner",
    "owner_of",
    "part_of",
    "refuse_method",
    "tuner_named",
    "tuner_of",
]

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


def _tensors(name: str, together: str = "", **kinds: str) -> Tuner:
    """Return a tuner of tensors; kinds are texts of names separated by spaces."""
    parts: dict[str, ExtraKind] = {}
    known: tuple[ExtraKind, ...] = ("tuner", "tuner_ones", "exact", "saved", "token_rows")
    for kind in known:
        parts.update(dict.fromkeys(kinds.get(kind, "").split(), kind))
    groups = tuple(tuple(group.split()) for group in together.split(",") if group)
    return Tuner(name, "tensors", parts, groups)


_ROWS: Final = (
    Tuner("LORA", "low rank"),
    Tuner("ADALORA", "low rank", dict.fromkeys(("lora_A", "lora_B", "lora_E"), "tuner")),
    Tuner(
        "LOHA",
        "factors",
        dict.fromkeys(
            ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), "tuner"
        ),
    ),
    Tuner(
        "LOKR",
        "factors",
        dict.fromkeys(
            ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
            "tuner",
        ),
    ),
    # Prompts: numbers that stand before the input, in its embeddings or the layers' keys, values.
    _tensors("PROMPT_TUNING", tuner="prompt_embeddings"),
    _tensors("P_TUNING", tuner="prompt_embeddings"),
    _tensors("PREFIX_TUNING", tuner="prompt_embeddings"),
    _tensors("CPT", tuner="prompt_embeddings"),
    _tensors("CARTRIDGE", tuner="prompt_embeddings"),
    _tensors(
        "MULTITASK_PROMPT_TUNING",
        "prompt_embeddings prefix_task_cols prefix_task_rows",
        tuner="prompt_embeddings prefix_task_cols prefix_task_rows",
    ),
    _tensors(
        "ADAPTION_PROMPT", "adaption_prompt adaption_gate", tuner="adaption_prompt adaption_gate"
    ),
    # Factors on outputs, inputs or norms, and additions to biases.
    _tensors("IA3", tuner_ones="ia3_l"),
    _tensors("LN_TUNING", saved="ln_tuning_layers"),
    _tensors("BEFT", tuner="beft_bias"),
    _tensors("ROAD", "road_theta road_alpha", tuner="road_theta", tuner_ones="road_alpha"),
    # Rotations and reflections of the weights.
    _tensors("OFT", tuner="oft_R oft_embedding_R"),
    _tensors("BOFT", "boft_R boft_s", tuner="boft_R", tuner_ones="boft_s"),
    # Reflections begin as pairs that undo each other, so what was trained is a small part of them.
    _tensors("HRA", saved="hra_u"),
    _tensors("PSOFT", tuner="psoft_R", tuner_ones="psoft_R.vector_a psoft_R.vector_b"),
    # Few trained numbers over projections that a seed or the base model gives. The projections may
    # be rounded: an error of theirs is no worse than the same one of the numbers.
    _tensors(
        "VERA",
        "vera_lambda_b vera_lambda_d",
        tuner="vera_lambda_b vera_lambda_d vera_A vera_B",
    ),
    _tensors(
        "PVERA",
        "pvera_lambda_b pvera_lambda_d",
        tuner="pvera_lambda_b pvera_lambda_d pvera_A pvera_B",
    ),
    _tensors(
        "RANDLORA",
        "randlora_lambda randlora_gamma",
        tuner="randlora_lambda randlora_gamma randlora_A randlora_B",
    ),
    _tensors(
        "FROD",
        "frod_lambda_l frod_lambda_s_values",
        tuner="frod_lambda_s_values",
        saved="frod_lambda_l frod_V",  # a decomposition of the base's own weights
        exact="frod_s_indices frod_s_size",
    ),
    _tensors(
        "TINYLORA",
        "tinylora_A tinylora_B",
        tuner="tinylora_v tinylora_A tinylora_B tinylora_P",
    ),
    _tensors("ADAMSS", "adamss_A adamss_B", tuner="adamss_A adamss_B adamss_newB"),
    # Vectors drawn from a bank, by the largest logits: an error must not change which these are.
    # Of the weights over the drawn ones the last is left out of the file, and is what the others
    # leave of 1: rounded, it might be negative.
    _tensors(
        "VBLORA",
        "vblora_logits_A vblora_logits_B,"
        "vblora_logits_A_topk_indices vblora_logits_A_topk_weights "
        "vblora_logits_B_topk_indices vblora_logits_B_topk_weights",
        tuner="vblora_vector_bank",
        saved="vblora_logits_A vblora_logits_B",
        exact="vblora_logits_A_topk_indices vblora_logits_B_topk_indices "
        "vblora_logits_A_topk_weights vblora_logits_B_topk_weights",
    ),
    _tensors(
        "UNILORA",
        tuner="unilora_theta_d unilora_scales_A unilora_scales_B",
        exact="unilora_indices_A unilora_indices_B",
    ),
    # Some of the numbers of dW, or of its transform.
    _tensors("FOURIERFT", tuner="fourierft_spectrum"),
    _tensors("WAVEFT", tuner="waveft_spectrum"),
    _tensors("C3A", tuner="c3a_kernel"),
    _tensors("SHIRA", "shira_weight shira_indices", tuner="shira_weight", exact="shira_indices"),
    _tensors(
        "SUPERTUNING",
        "supertuning_lora_A supertuning_lora_B",
        tuner="supertuning_values supertuning_lora_A supertuning_lora_B",
        exact="supertuning_indices",
    ),
    # Pairs of matrices whose change is not their product alone.
    _tensors("MISS", tuner="miss_block"),
    _tensors("BONE", tuner="bone_block"),
    _tensors(
        "DELORA",
        "delora_A delora_B delora_lambda",
        tuner="delora_A delora_B delora_lambda delora_w_norm",
    ),
    _tensors(
        "GRALORA",
        "gralora_A gralora_B,gralora_A_general gralora_B_general",
        tuner="gralora_A gralora_B gralora_A_general gralora_B_general",
    ),
    _tensors(
        "GLORA",
        "glora_A glora_B glora_C glora_D glora_E",
        tuner="glora_A glora_B glora_C glora_D glora_E",
    ),
    _tensors(
        "HIRA",
        "hira_A hira_B,hira_embedding_A hira_embedding_B",
        tuner="hira_A hira_B hira_embedding_A hira_embedding_B",
    ),
    _tensors(
        "PEANUT",
        "peanut_A peanut_B",
        tuner="peanut_A peanut_B peanut_encoders peanut_decoders",
    ),
    _tensors("LILY", "lily_A lily_B lily_router", tuner="lily_A lily_B lily_router"),
    _tensors(
        "POLY",
        "poly_lora_A poly_lora_B poly_router",
        tuner="poly_lora_A poly_lora_B poly_router",
    ),
    # These take the place of a part of the base's weights, so zero is not "no change".
    _tensors("OSF", saved="osf_svd_params"),
    _tensors("DEFT", tuner="deft_P", saved="deft_R"),
    _tensors(
        "SHADOW",
        "shadow_down shadow_up",
        tuner="shadow_down shadow_up shadow_update_transform shadow_update_gate shadow_projection",
        saved="shadow_backbone shadow_head",
    ),
    _tensors("TRAINABLE_TOKENS", token_rows="trainable_tokens_delta"),
    # LoRAs of which the two matrices, as they are stored, are not all of B and A.
    *(
        _tensors(
            f"LORA, {variant}",
            tuner=f"lora_A lora_B lora_embedding_A lora_embedding_B lora_magnitude_vector {more}",
        )
        for variant, more in (
            ("KaSA", "lora_diag"),
            ("BD-LoRA", ""),
            ("QALoRA", ""),
            ("MonteCLoRA", "lora_monteclora_sampler"),
        )
    ),
    Tuner(
        "LORA, Arrow",
        "refused",
        why="an Arrow router has no weights of its own, it chooses among other adapters",
    ),
    Tuner(
        "XLORA",
        "refused",
        dict.fromkeys(("internal_xlora_classifier",), "saved"),
        why="its file holds the router alone; the LoRAs between which it chooses lie in folders of "
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
