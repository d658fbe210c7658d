"""Read the other LoRA formats: kohya with LyCORIS, diffusers with cloneofsimo's, loralib, MLX.

None of them has PEFT's config, so each reader makes one that says the same: r, lora_alpha,
patterns where modules differ, target_modules as whole paths, and the original settings under the
key "hydraopt", from which the original format can be written again.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from hydraopt.adapters.lycoris import has_product, is_lycoris, read_lycoris
from hydraopt.adapters.model import ExtraKind, Format, Kind, Layout, LowRankModule
from hydraopt.adapters.peft import DORA, Parsed, both_of, halves_of, joined_half, spell
from hydraopt.adapters.settings import ScaleRule, exact_pattern, mlx_scale, ratio
from hydraopt.adapters.tensors import DAMAGED, RawTensor, TensorFile, refuse
from hydraopt.files import AnyPath
from hydraopt.notes import Note

StoredPair = tuple[RawTensor, RawTensor]

_EMBEDDING_NAMES: Final = {"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"}

# One number each, by which LyCORIS and ComfyUI multiply a module or one of its halves.
_MULTIPLIERS: Final = (".scalar", ".scale_weight")
# PATH and side of one half of a pair, as kohya and the generations of diffusers spell it.
_HALF: Final = re.compile(
    r"(?P<path>.+?)"
    r"(?:\.lora_(?P<kohya>down|up)\.weight"
    r"|(?P<mark>\.lora|_lora|\.lora_linear_layer)\.(?P<old>down|up)\.weight"
    r"|\.lora_(?P<new>[AB])(?:\.[^.]+)?\.weight"
    r"|:(?P<numbered>down|up))"
)

_ALPHA: Final = re.compile(r".*\.alpha|[^.]+_alpha", re.DOTALL)


def read_image_lora(file: TensorFile, file_format: Format, alpha: float | None) -> Parsed:
    """Return the modules of a kohya or diffusers file: lora_up @ lora_down, times alpha / r.

    The kinds of :mod:`hydraopt.adapters.lycoris` are included.

    The scale comes from the module's ``.alpha``, else from the settings that newer diffusers puts
    in the metadata, else from ``alpha``, else it is 1, which is what both tools then do.
    """
    parsed = Parsed(file_format, {}, base_model=file.metadata.get("ss_sd_model_name") or None)
    halves = halves_of(file, _image_half)
    alphas = {name: x for name, x in file.items() if _ALPHA.fullmatch(name)}
    settings = _diffusers_settings(file)
    product = next(filter(has_product, file), None)
    if file_format == "diffusers" and product is not None:
        what = f"tensor {product[:200]!r} is of LoHa or LoKr, in a file with diffusers' LoRA"
        refuse(what, file.path, do="Save it in kohya's format, or as a PEFT folder")
    used: set[str] = set()

    def stated(stem: str, path: str, rank: int) -> float | None:
        """Return alpha / r of the tensor that states alpha, if there is one."""
        places = (stem, f"{stem}.lora", f"{stem}.lora_linear_layer", stem.removesuffix("_lora"))
        keys = *(f"{x}.alpha" for x in places), f"{stem}_alpha"
        key = next((x for x in keys if x in alphas), None)
        if key is None:
            return None
        used.add(key)
        if math.prod(alphas[key].shape) != 1:
            got = f"{key!r} of shape {alphas[key].shape}"
            refuse("alpha is not one number", file.path, module=path, got=got, do=DAMAGED)
        value = float(alphas[key].numpy().reshape(-1)[0])
        return ratio(value, rank, module=path, file=file.path)

    def scale_of(path: str, rank: int) -> float:
        scale = stated(path, path, rank)
        return ratio(alpha, rank, module=path, file=file.path) if scale is None else scale

    lycoris = read_lycoris(file, halves, scale_of)
    used -= set(lycoris.kinds)
    parsed.modules += lycoris.modules
    for stem, sides in halves.items():
        a, b = both_of(stem, sides, file.path)
        path = _diffusers_path(stem) if file_format == "diffusers" else stem
        rule = settings.get(path.partition(".")[0])
        scale = stated(stem, path, b.shape[1] if len(b.shape) > 1 else 1)
        if scale is None and rule is not None:
            scale = rule.scale(path.partition(".")[2])
        elif scale is None:
            scale = ratio(alpha, a.shape[0] if a.shape else 1, module=path, file=file.path)
        parsed.modules.append(_plain(path, a, b, scale, file.path))
        used |= {a.name, b.name}
    idle = alphas.keys() - used - lycoris.used - lycoris.kinds.keys()
    parsed.notes += _image_notes(halves, sorted(idle), sorted(file))
    if not alphas and not settings and alpha is None and parsed.modules:
        text = "no alpha in the file: scale 1, as kohya and diffusers then take it"
        parsed.notes.append(Note("alpha_missing", text))
    origin: dict[str, Any] = {"metadata": dict(file.metadata)}
    if lycoris.modules and not alphas:
        origin["alphas"] = False
    return _finish(parsed, file, used | lycoris.used, origin, lycoris.kinds)


def _image_notes(stems: Iterable[str], idle: Sequence[str], names: Iterable[str]) -> Iterator[Note]:
    """Yield notes for the user about a file of an image model.

    idle: keys of alphas that belong to no module.
    names: names of all tensors.
    """
    if any(":" in stem for stem in stems):
        text = "modules are numbered, not named; they align with files of one model only"
        yield Note("numbered_modules", text)
    if idle:
        many = f"{len(idle)} alphas belong to no module of the file"
        yield Note("alpha_ignored", f"{many}, {idle[0]!r} for one: they scale nothing", idle[0])
    multipliers = [name for name in names if name.endswith(_MULTIPLIERS)]
    if multipliers:
        many = f"{len(multipliers)} tensors multiply modules, {multipliers[0]!r} for one"
        text = f"{many}: they come back, but |dW| and a task's weight are computed without them"
        yield Note("multipliers", text, multipliers[0])


def _image_half(name: str) -> tuple[str, str] | None:
    """Split the name of half of a pair into its path and "A" or "B"; None for other names."""
    if is_lycoris(name):
        return None
    joined = joined_half(name)
    if joined is not None:
        return joined["path"], "A" if joined["half"] == "down" else "B"
    match = _HALF.fullmatch(name)
    if match is None:
        return None
    half = match["kohya"] or match["old"] or match["new"] or match["numbered"]
    path = match["path"] + (match["mark"] or "" if match["mark"] == "_lora" else "")
    return path, "A" if half in ("down", "A") else "B"


def read_loralib(
    file: TensorFile, alpha: float | None, config: Mapping[str, Any] | None = None
) -> Parsed:
    """Return the modules of a loralib state dict (``PATH.lora_A``, ``PATH.lora_B``).

    alpha is not in the file.

    Without ``alpha`` the scale is 1, and a note says so. A fused projection, whose A has g times
    the rows that B has columns, gives g modules "PATH::0" ...: which slots of the projection they
    are is not in the file either; ``enable_lora`` of an adapter_config.json beside it says so.
    """
    parsed = Parsed("loralib", {})
    enable = (config or {}).get("enable_lora")
    pairs = _suffix_pairs(file, "lora_A", "lora_B")
    for path, (a, b) in pairs.items():
        rank, groups = b.shape[1], a.shape[0] // b.shape[1]
        if groups < 1 or a.shape[0] != groups * rank or b.shape[0] % groups:
            _refuse_pair(path, a, b, file.path)
        scale = ratio(alpha, rank, module=path, file=file.path)
        places = list(range(groups))
        if groups > 1 and isinstance(enable, list):
            places = [i for i, on in enumerate(enable) if on]
            if len(places) != groups:
                got, do = f"{groups} groups, enable_lora {enable}"[:80], "Correct enable_lora"
                refuse("enable_lora does not fit", file.path, module=path, got=got, do=do)
        for g, place in enumerate(places):
            name = path if groups == 1 else f"{path}::{place}"
            layout: Layout = "plain" if groups == 1 else "rows"
            m, n = b.shape[0] // groups, a.shape[1]
            parsed.modules.append(
                LowRankModule(name, _kind(path), m, n, rank, scale, a, b, layout, g, groups)
            )
        if groups > 1 and not isinstance(enable, list):
            text = f"{path}: a fused projection; which {groups} parts is not stated"
            parsed.notes.append(Note("fused_projection", text, path))
    if alpha is None:
        text = "loralib files do not hold lora_alpha: scale 1 was assumed, give alpha"
        parsed.notes.append(Note("alpha_missing", text))
    result = _finish(parsed, file, {x.name for pair in pairs.values() for x in pair}, {})
    if isinstance(enable, list):
        result.config = {**result.config, "enable_lora": enable}
    return result


def read_mlx(file: TensorFile, config: Mapping[str, Any], config_file: AnyPath) -> Parsed:
    """Return the modules of an mlx-lm adapter: ``dW = scale * (lora_a @ lora_b)^T``.

    Raises AdapterFormatError for expert layers (3-D lora_a), which mlx-lm stacks in one tensor.
    """
    scale, rank = mlx_scale(config, config_file)
    model = config.get("model")
    parsed = Parsed("mlx", {}, base_model=model if isinstance(model, str) and model else None)
    pairs = _suffix_pairs(file, "lora_a", "lora_b")
    for path, (a, b) in pairs.items():
        if a.shape[1] != b.shape[0] or (rank is not None and a.shape[1] != rank):
            refuse(
                "ranks of lora_a, lora_b and the config differ",
                file.path,
                module=path,
                got=f"lora_a {a.shape}, lora_b {b.shape}, rank {rank}",
                expected="lora_a (n, rank), lora_b (rank, m)",
                do="File and config belong to different adapters",
            )
        m, n, r = b.shape[1], a.shape[0], a.shape[1]
        module = LowRankModule(path, _kind(path), m, n, r, scale, a, b, "transposed")
        parsed.modules.append(module)
    if "alpha" in (config.get("lora_parameters") or {}):
        text = "lora_parameters.alpha has no effect, as in mlx-lm since June 2024"
        parsed.notes.append(Note("alpha_ignored", text))
    used = {x.name for pair in pairs.values() for x in pair}
    result = _finish(parsed, file, used, {"config": dict(config)})
    magnitudes = [name for name in result.extras if name.removesuffix(".m") in pairs]
    if magnitudes:
        result.extras.update(dict.fromkeys(magnitudes, "dora_magnitude"))
        result.config = {**result.config, "use_dora": True}
        result.notes.append(DORA)
    return result


def _suffix_pairs(file: TensorFile, a_name: str, b_name: str) -> dict[str, StoredPair]:
    """Return the pairs PATH.A_NAME, PATH.B_NAME, all of them matrices."""

    def split(name: str) -> tuple[str, str] | None:
        path, _, last = name.rpartition(".")
        return (path, "A" if last == a_name else "B") if path and last in (a_name, b_name) else None

    pairs = {}
    for path, sides in halves_of(file, split).items():
        a, b = pairs[path] = both_of(path, sides, file.path)
        if len(a.shape) != 2 or len(b.shape) != 2 or 0 in a.shape + b.shape:
            _refuse_pair(path, a, b, file.path)
    return pairs


def _plain(path: str, a: RawTensor, b: RawTensor, scale: float, file: AnyPath) -> LowRankModule:
    conv = len(a.shape) > 2 and set(b.shape[2:]) == {1}
    if len(a.shape) != len(b.shape) or len(a.shape) < 2 or 0 in a.shape + b.shape:
        _refuse_pair(path, a, b, file)
    if a.shape[0] != b.shape[1] or (len(a.shape) > 2 and not conv):
        _refuse_pair(path, a, b, file)
    n = math.prod(a.shape[1:])
    kind: Kind = "conv" if conv else "linear"
    return LowRankModule(path, kind, b.shape[0], n, a.shape[0], scale, a, b)


def _kind(path: str) -> Kind:
    return "embedding" if path.rpartition(".")[2] in _EMBEDDING_NAMES else "linear"


def _refuse_pair(path: str, a: RawTensor, b: RawTensor, file: AnyPath) -> None:
    refuse(
        "the shapes of A and B do not fit together",
        file,
        module=path,
        got=f"{a.name!r} {a.shape}, {b.name!r} {b.shape}",
        expected="two non-empty matrices (or a convolution's) that share the rank",
        do="The file is damaged, or of a kind of layer that is not supported; leave it out",
    )


def _diffusers_path(stem: str) -> str:
    """Return the module path as diffusers spells it today, also from old attention processors."""
    path = stem.replace(".processor.", ".")
    if path.endswith("_lora"):
        head, _, last = path.removesuffix("_lora").rpartition(".")
        text = "text_encoder" in head
        names = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
        last = names.get(last, last) if text else "to_out.0" if last == "to_out" else last
        path = f"{head}.{last}"
    # Files of attention processors were saved from the U-Net itself, so they lack its name.
    if path.startswith(("down_blocks.", "mid_block.", "up_blocks.")):
        path = f"unet.{path}"
    return path


def _diffusers_settings(file: TensorFile) -> dict[str, ScaleRule]:
    """Return the LoRA settings of each component ("unet", ...) from newer diffusers metadata."""
    text = file.metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        flat = json.loads(text)
        components: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            component, _, setting = key.partition(".")
            components.setdefault(component, {})[setting] = value
    except (ValueError, AttributeError, RecursionError) as error:
        refuse("metadata lora_adapter_metadata cannot be read", file.path, got=error, do=DAMAGED)
    return {name: ScaleRule.from_config(x, file.path) for name, x in components.items()}


def _finish(
    parsed: Parsed,
    file: TensorFile,
    used: Iterable[str],
    origin: dict[str, Any],
    kinds: Mapping[str, ExtraKind] | None = None,
) -> Parsed:
    """Add the extras, PEFT's names for the modules, and the config that PEFT would have written.

    kinds: of extras that the reader knows.
    """
    taken = set(used)
    for name in file:
        if kinds is not None and name in kinds:
            parsed.extras[name] = kinds[name]
        elif name not in taken:
            last = name.rpartition(".")[2]
            magnitude = last in ("dora_scale", "lora_magnitude_vector")
            magnitude = magnitude and parsed.format != "loralib"
            # Only diffusers, by PEFT, computes with these.
            bias = name.endswith(".lora_B.bias") and parsed.format == "diffusers"
            bias = bias and name.removesuffix("bias") + "weight" in taken
            parsed.extras[name] = (
                "dora_magnitude" if magnitude else "lora_bias" if bias else "saved"
            )
    for module in parsed.modules:
        inner = module.path.partition("::")[0]
        for half in ("A", "B"):
            spelled = spell(inner, "A" if half == "A" else "B", module.kind == "embedding")
            parsed.keys[module.path, half] = spelled
    parsed.config = _peft_like(parsed.modules, {"format": parsed.format, **origin})
    return parsed


def _peft_like(modules: Iterable[LowRankModule], origin: Mapping[str, Any]) -> dict[str, Any]:
    firsts: dict[str, LowRankModule] = {}
    for x in modules:
        # Of the factors of a product, the first has its scale.
        firsts.setdefault(x.path if x.layout != "factor" else x.path.partition("::")[0], x)
    modules = list(firsts.values())
    ranks = {x.path.partition("::")[0]: x.r for x in modules}
    alphas = {x.path.partition("::")[0]: x.scale * x.r for x in modules}
    r, rank_pattern = _common(ranks, lambda x: x)
    alpha, alpha_pattern = _common(alphas, float)
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "target_modules": sorted(ranks),
        "bias": "none",
        "fan_in_fan_out": False,
        "hydraopt": dict(origin),
    }


def _common(values: Mapping[str, Any], cast: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the most frequent value, and the modules (as exact patterns) that have another."""
    if not values:
        return 0, {}
    usual = Counter(values.values()).most_common(1)[0][0]
    others = {exact_pattern(path): cast(x) for path, x in values.items() if x != usual}
    return cast(usual), dict(sorted(others.items()))
