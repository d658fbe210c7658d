"""LyCORIS modules besides plain pairs, as kohya files store them: products, cores, differences.

dW (m, n), scale = alpha / r (1 where alpha is missing or 0); a convolution's n is in * kh * kw:

    LoHa     scale * (w1_a @ w1_b) o (w2_a @ w2_b), all of one rank r
    LoKr     scale * kron(W1, W2), each W stored whole or as w_a @ w_b; scale 1 if both are whole
    Tucker   a core t (r, r, kh, kw) between the two sides: sum_ij t[i, j] * a[i] (x) b[j]
    full     .diff (m, n, ...), .diff_b; norms .w_norm, .b_norm: added to the base's own
    GLoRA    scale * (W @ a1 @ a2 + b1 @ b2);  IA3: W times 1 + .weight;  OFT: .oft_blocks

Each low-rank factor is a module of layout "factor", "PATH::w1" or "PATH::w2" of LoHa, with its size
"PATH::w2.8x9" of LoKr, whose adapters may split a layer differently; the scale is in the first. All
else is extras: ``tuner`` where zeros change nothing. Source: lycoris-lora
4.1.3, lycoris/modules; Yeh et al., "Navigating Text-To-Image Customization" (2024), for the
formulas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from hydraopt.adapters.model import ExtraKind, LowRankModule, factor_path
from hydraopt.adapters.tensors import DAMAGED, RawTensor, TensorFile, refuse
from hydraopt.adapters.tuners import refuse_method
from hydraopt.files import AnyPath

ByName = Mapping[str, RawTensor]
Halves = dict[str, dict[str, RawTensor]]

_PRODUCT: Final = re.compile(
    r"(?P<path>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))"
)
_MID: Final = re.compile(r"(?P<path>.+)\.(?P<part>lora_mid)\.weight")
# Of one tensor each; the others only together with what tells their method.
_ALONE: Final[Mapping[str, ExtraKind]] = {
    "diff": "tuner", "diff_b": "tuner", "w_norm": "tuner", "b_norm": "tuner",
    "oft_blocks": "tuner", "oft_diag": "tuner", "on_input": "exact", "lambda_layer": "exact",
}  # fmt: skip
_TOGETHER: Final[Mapping[str, Mapping[str, ExtraKind]]] = {
    "oft_blocks": {"rescale": "tuner_ones"},
    "oft_diag": {"rescale": "tuner_ones"},
    "on_input": {"weight": "tuner"},
    # T-LoRA's change is the difference to a start that the file does not hold, so no size of these
    # tells how much harm an error does.
    "lambda_layer": {"q_layer.weight": "exact", "p_layer.weight": "exact"},
}
_GLORA: Final = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
_OTHERS: Final = re.compile(
    rf"(?P<path>.+)\.(?P<part>{'|'.join(map(re.escape, (*_ALONE, *_GLORA, 'bm.weight')))})"
)
_UNKNOWN: Final = re.compile(r"\.(?:hada_|lokr_|lora_mid|oft_|boft_|glora)")
_SCALED: Final = {*_GLORA, "bm.weight", "lora_mid"}
_DO: Final = "The file is damaged or incomplete; save it again, or leave it out"


@dataclass
class LycorisContent:
    """Contents of a LyCORIS file.

    modules: factors of LoHa and LoKr.
    kinds: kinds of the extras, by key.
    used: keys of the tensors in the modules.
    """

    modules: list[LowRankModule] = field(default_factory=list)
    kinds: dict[str, ExtraKind] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def has_product(name: str) -> bool:
    """Return whether a tensor is of LoHa or LoKr; PEFT's own are read by their config."""
    return _PRODUCT.fullmatch(name) is not None and not name.startswith("base_model.")


def has_other_kind(name: str) -> bool:
    """Return whether a tensor is of another kind of LyCORIS, in a file without plain pairs."""
    known = _OTHERS.fullmatch(name) or _MID.fullmatch(name)
    return known is not None and not name.startswith("base_model.")


def is_lycoris(name: str) -> bool:
    """Return whether :func:`read_lycoris` reads or refuses the tensor."""
    return has_product(name) or has_other_kind(name) or _UNKNOWN.search(name) is not None


def read_lycoris(
    file: TensorFile, halves: Halves, scale_of: Callable[[str, int], float]
) -> LycorisContent:
    """Read modules and kinds of the tensors in a kohya file that are not plain pairs.

    halves: A and B of each path by "A", "B"; those around a Tucker core are taken out.
    scale_of: (path, rank) to the scale.
    Raises AdapterFormatError, naming the file and the tensor or module, for parts that are missing
    or do not fit, and for names of methods that are not known.
    """
    content = LycorisContent()
    products: dict[str, dict[str, RawTensor]] = {}
    others: dict[str, dict[str, RawTensor]] = {}
    for name, tensor in file.items():
        match = _PRODUCT.fullmatch(name) or _OTHERS.fullmatch(name) or _MID.fullmatch(name)
        if match is not None:
            into = products if match["part"].startswith(("hada", "lokr")) else others
            into.setdefault(match["path"], {})[match["part"]] = tensor
        elif _UNKNOWN.search(name):
            refuse_method(name, file.path)
    for path, parts in products.items():
        if "::" in path:
            do = "Rename the module: '::' marks the groups of one stored pair"
            refuse("a module's name holds '::'", file.path, module=path, do=do)
        kinds = {part.partition("_")[0] for part in parts}
        if len(kinds) > 1 or path in halves:
            what = "tensors of several methods claim to be one module"
            refuse(what, file.path, module=path, got=sorted(parts), do="Save each on its own")
        _add(file, path, parts, scale_of, content)
    for path, parts in others.items():
        _other(file, path, parts, halves, content)
        if set(parts) & _SCALED:
            _check_alpha(file, path, 1, scale_of)
        if set(parts) & (_SCALED | {"oft_blocks", "oft_diag", "lambda_layer"}):
            _keep_alpha(file, path, content)
    for key, kind in content.kinds.items():
        _check_numbers(file, key, kind)
    return content


@dataclass(frozen=True)
class StoredProduct:
    """Product of two matrices, entry by entry (LoHa) or Kronecker's (LoKr), as a file stores it.

    modules: the factors that are low-rank pairs; the scale is inside the first.
    kept: tensors of the other factors: whole matrices, and Tucker's form of a convolution.
    core_rank: rank of Tucker's form; None without one.
    """

    modules: list[LowRankModule]
    kept: ByName
    core_rank: int | None


def read_product(
    file: AnyPath,
    path: str,
    parts: ByName,
    scale_of: Callable[[int], float],
    rank: int | None = None,
) -> StoredProduct:
    """Return the product whose tensors are ``parts``, by their own names ("hada_w1_a", ...).

    path: of the module.  scale_of: rank to scale.  rank: that all pairs must have, if given.
    Raises AdapterFormatError for parts that are missing or do not fit together.
    """
    stored = _ProductParts(file, path, parts, rank)
    pairs: dict[int, tuple[RawTensor, RawTensor]] = {}
    kept: dict[str, RawTensor] = {}
    shapes, ranks, core_rank = set(), set(), None
    for group in (0, 1):
        names = stored.factor(group + 1)
        tensors = [parts[name] for name in names]
        if len(names) == 2:
            pairs[group] = tensors[0], tensors[1]
            ranks.add(tensors[0].shape[1])
        else:
            kept.update(zip(names, tensors, strict=True))
        if len(names) == 3:
            core_rank = tensors[0].shape[0]
            ranks.add(core_rank)
        shapes.add(tuple(x.shape for x in tensors))
    # Of a LoHa with two ranks, it would be a guess which of them alpha is divided by.
    if len(ranks) > 1 or (stored.kind == "hada" and len(shapes) > 1):
        stored.misfit("factors of one rank, those of a LoHa of one shape")
    modules = []
    scale = scale_of(min(ranks)) if pairs else 1.0
    for group, (b, a) in pairs.items():
        (m, r), n = b.shape, a.shape[1]
        own = factor_path(path, group, (m, n) if stored.kind == "lokr" else None)
        modules.append(LowRankModule(own, "linear", m, n, r, scale, a, b, "factor", group, 2))
        scale = 1.0
    return StoredProduct(modules, kept, core_rank)


@dataclass(frozen=True)
class _ProductParts:
    """Tensors of one product, as for :func:`read_product`."""

    file: AnyPath
    path: str
    parts: ByName
    rank: int | None

    @property
    def kind(self) -> str:
        return "hada" if any(name.startswith("hada") for name in self.parts) else "lokr"

    def factor(self, number: int) -> tuple[str, ...]:
        """Return the names of a factor's tensors: (W), (B, A), or Tucker's (core, side, side)."""
        parts = self.parts
        start = f"{self.kind}_w{number}"
        whole, a, b, core = start, f"{start}_a", f"{start}_b", f"{self.kind}_t{number}"
        if whole in parts:
            shape = parts[whole].shape
            if {a, b, core} & set(parts):
                self.misfit(f"either {whole}, or {a} and {b}")
            if len(shape) < 2 or 0 in shape or (number == 1 and len(shape) > 2):
                self.misfit("lokr_w1 a matrix, lokr_w2 a matrix or a kernel, none of them empty")
            return (whole,)
        if a not in parts or b not in parts:
            self.misfit(f"also {a} and {b}")
        left, right = parts[a].shape, parts[b].shape
        flat = len(left) == len(right) == 2 and 0 not in left + right
        if core in parts:
            shape = parts[core].shape
            if not flat or len(shape) < 3 or 0 in shape or shape[:2] != (left[0], right[0]):
                self.misfit(f"{core} (r, r, ...), {a} (r, m) and {b} (r, n), none of them empty")
            return core, a, b
        if not flat or left[1] != right[0] or self.rank not in (None, left[1]):
            self.misfit(f"{a} (m, r), {b} (r, n), none of them empty, r {self.rank or 'equal'}")
        return a, b

    def misfit(self, expected: str) -> NoReturn:
        refuse(
            "the tensors of a product are incomplete, or do not fit together",
            self.file,
            module=self.path,
            got=", ".join(f"{name} {x.shape}" for name, x in sorted(self.parts.items()))[:600],
            expected=expected,
            do=_DO,
        )


def _add(
    file: TensorFile,
    path: str,
    parts: ByName,
    scale_of: Callable[[str, int], float],
    content: LycorisContent,
) -> None:
    product = read_product(file.path, path, parts, lambda rank: scale_of(path, rank))
    content.modules += product.modules
    content.kinds.update((tensor.name, "tuner") for tensor in product.kept.values())
    if not product.modules:
        _keep_alpha(file, path, content)
        if product.core_rank is not None:
            _check_alpha(file, path, product.core_rank, scale_of)
        return
    content.used |= {tensor.name for x in product.modules for tensor in (x.a, x.b)}
    if f"{path}.alpha" in file:
        content.used.add(f"{path}.alpha")


def _keep_alpha(file: TensorFile, path: str, content: LycorisContent) -> None:
    """Keep an alpha as it is if no module's scale includes it."""
    if f"{path}.alpha" in file:
        content.kinds[f"{path}.alpha"] = "exact"


def _check_alpha(
    file: TensorFile, path: str, rank: int, scale_of: Callable[[str, int], float]
) -> None:
    """Refuse an alpha that is no number, or that was given for a file without: it has no place."""
    scale = scale_of(path, rank)
    if f"{path}.alpha" not in file and scale != 1:
        refuse(
            "the alpha that was given cannot be kept beside a core or GLoRA",
            file.path,
            module=path,
            got=f"a scale of {scale:g}",
            do=f"Add the tensor {path}.alpha to the file",
        )


def _other(
    file: TensorFile, path: str, parts: ByName, halves: Halves, content: LycorisContent
) -> None:
    def need(*names: str) -> None:
        for name in names:
            if f"{path}.{name}" not in file:
                what, got = f"a module lacks its {name}", ", ".join(sorted(parts))
                refuse(what, file.path, module=path, got=got, do=_DO)

    if "lora_mid" in parts:
        _tucker(file, path, parts["lora_mid"], halves, content)
    if set(parts) & {*_GLORA, "bm.weight"}:
        need(*_GLORA)
    for part, tensor in parts.items():
        if part in ("oft_blocks", "oft_diag") and len(tensor.shape) < 2:
            got = f"{tensor.name!r} {tensor.shape}"
            refuse("an OFT has no blocks", file.path, module=path, got=got, do=_DO)
        content.kinds[tensor.name] = _ALONE.get(part, "tuner")
        for more, kind in _TOGETHER.get(part, {}).items():
            if more != "rescale":
                need(more)
            if f"{path}.{more}" in file:
                content.kinds[f"{path}.{more}"] = kind


def _tucker(
    file: TensorFile, path: str, core: RawTensor, halves: Halves, content: LycorisContent
) -> None:
    """Add lora_up (m, r, 1, 1), lora_mid (r, s, kh, kw) and lora_down (s, n, 1, 1)."""
    sides = halves.pop(path, {})
    fits = set(sides) == {"A", "B"} and len(core.shape) > 2 and 0 not in core.shape
    if fits:
        a, b = sides["A"].shape, sides["B"].shape
        fits = len(a) == len(b) == len(core.shape) and set(a[2:] + b[2:]) == {1}
        fits = fits and (b[1], a[0]) == core.shape[:2] and 0 not in a + b
    if not fits:
        refuse(
            "lora_mid does not fit between lora_up and lora_down",
            file.path,
            module=path,
            got=", ".join(f"{x.name!r} {x.shape}" for x in (core, *sides.values())),
            expected="up (m, r, 1, 1), mid (r, r, kh, kw), down (r, n, 1, 1)",
            do=_DO,
        )
    content.kinds.update((x.name, "tuner") for x in sides.values())


def _check_numbers(file: TensorFile, key: str, kind: ExtraKind) -> None:
    tensor = file[key]
    if kind != "exact" and (not tensor.is_float or 0 in tensor.shape):
        refuse(
            f"tensor {key[:200]!r} holds no floating point numbers",
            file.path,
            got=f"{tensor.dtype} {tensor.shape}",
            do=DAMAGED if 0 in tensor.shape else "Save it in float32 or bfloat16, not quantised",
        )
