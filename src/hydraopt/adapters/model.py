"""Representation of an adapter in hydraopt: its low-rank modules and all other tensors.

Shapes: ``m`` outputs, ``n`` inputs, ``r`` rank; a module changes the base by ``dW = scale * B @ A``
with ``B`` (m, r) and ``A`` (r, n), whatever the orientation in the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters.tensors import RawTensor
from hydraopt.codec import Drawn
from hydraopt.errors import NumericalError, UsageError, explain
from hydraopt.files import AnyPath, shown
from hydraopt.notes import Note

Kind = Literal["linear", "embedding", "conv"]
Format = Literal["peft", "kohya", "diffusers", "loralib", "mlx"]

Layout = Literal["plain", "transposed", "rows", "experts", "factor"]
"""Layout of a module's factors in the two stored tensors.

plain        A (r, n), B (m, r); a convolution adds kernel axes, A (r, in, kh, kw), B (m, r, 1, 1).
transposed   MLX: A (n, r), B (r, m).
rows         block diagonal, group g of ``groups``: rows g of A (groups*r, n) and rows g of
             B (groups*m, r, 1): fused projections (loralib MergedLinear) and grouped convolutions.
experts      PEFT ``target_parameters``: rows g of A (groups*r, n), and the columns g, g+groups, ...
             of B (m, r*groups).
factor       A (r, n), B (m, r) of one of two matrices whose product, of whatever kind, is the
             module's change (LoHa, LoKr): group 0 is the first, "...::w1", 1 the second, "...::w2";
             of a Kronecker product with its size, "...::w2.16x8" (:func:`factor_path`).
             The scale of the product is inside the first of them that is of low rank.
"""

ExtraKind = Literal[
    "dora_magnitude", "lora_bias", "bias", "token_rows", "saved", "tuner", "tuner_ones", "exact"
]
"""Kind of a tensor outside the low-rank modules.

dora_magnitude   the column norms of DoRA, belonging to the module of the same path.
lora_bias        bias of lora_B; the model adds ``scale * bias``, so whoever folds the scale into B
                 must multiply it in here too.
bias             a bias of the base model that was trained along (``bias="all"``, ``"lora_only"``).
token_rows       trained rows of an embedding (``trainable_token_indices``).
saved            anything else, kept whole: ``modules_to_save``, heads, embeddings, unknown tensors.
tuner            of another tuner than LoRA; zero means no change of the base model.
tuner_ones       the same, where one means no change.
exact            of another tuner, and of no use but bit by bit: indices, masks, seeded projections.
"""

# Settings of adapter_config.json that change what the adapter computes and that neither the
# tensors nor the resolved scales already tell. Versions, paths and training settings are left out
# on purpose: two downloads of one adapter must be recognised as one.
_FUNCTIONAL_SETTINGS = (
    "alora_invocation_tokens",
    "enable_lora",
    "layer_replication",
    "modules_to_save",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
)

_IDLE_SETTINGS = frozenset(
    ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision")
)


def check_name(name: str, path: AnyPath | None = None) -> str:
    """Return the name itself if it can name a task and, later, a folder; else UsageError.

    path: where the name is from, if nobody chose it.
    """
    bad = not name or name in (".", "..") or name != name.strip() or len(name) > 200
    if bad or any(x in "/\\:" for x in name) or not shown(name):
        raise UsageError(
            explain(
                "not usable as a task name",
                file=path,
                got=repr(name[:60]),
                expected="1 to 200 printable characters without slash, backslash or colon, none of "
                "them a space at an end",
                do=None if path is None else "Give it another name: NAME=PATH",
            )
        )
    return name


def factor_path(path: str, group: int, size: tuple[int, int] | None) -> str:
    """Return the path of a factor of the module at ``path``; see :data:`Layout`.

    size: (m, n) of a factor of a Kronecker product: how it splits the module is each adapter's own
    choice. None for products entry by entry, whose factors are of the module's size.
    """
    name = f"{path}::w{group + 1}"
    return name if size is None else f"{name}.{size[0]}x{size[1]}"


def is_entrywise(path: str) -> bool:
    """Return whether the path is a factor of an entrywise product (LoHa), not a Kronecker one."""
    return "." not in path.rpartition("::")[2]


_USUAL: Final = 60
"""Exponents of two up to which factors are as they are: float32 holds numbers that are far smaller
beside them."""


def _stored(tensor: RawTensor) -> NDArray[Any]:
    """Return the numbers in the narrowest dtype that holds them."""
    return tensor.float64() if tensor.dtype == "F64" else tensor.numpy()


def _shift(b: NDArray[Any], a: NDArray[Any]) -> int:
    """Return the power of two that B gives to A, so that float32 holds small numbers of both."""
    largest = [float(np.abs(x).max(initial=0)) for x in (b, a)]
    if not all(0 < x < math.inf for x in largest):
        return 0
    of_b, of_a = (math.frexp(x)[1] for x in largest)
    return 0 if max(abs(of_b), abs(of_a)) <= _USUAL else (of_b - of_a) // 2


@dataclass(frozen=True)
class LowRankModule:
    """Low-rank change of one base module: ``dW = scale * B @ A``, of shape (m, n).

    path: module path in the base model, wrapper prefixes stripped ("model.layers.0.mlp.up_proj").
        Modules that share one stored pair carry the group in the path: "...query_key_value::2" is
        the third slot of a fused projection, "...experts::5" the sixth expert. Factors of a product
        are "...to_q::w1" and "...to_q::w2".
    kind: "linear"; "embedding" (dW is (dim, vocab)); "conv" (dW is (out, in*kh*kw)).
    m, n, r: outputs, inputs, rank; r may exceed min(m, n).
    scale: already resolved (alpha/r, alpha/sqrt(r), patterns, per-module alphas, MLX scale).
        It is not inside ``a`` and ``b``; it is inside what :meth:`factors` returns.
    a, b: the tensors as stored, shared between the groups of one pair.
    layout, group, groups: where this module's factors lie in ``a`` and ``b``; see :data:`Layout`.
    between: AdaLoRA's singular values (r, 1), if any: ``dW = scale * B @ diag(between) @ A``;
        :meth:`factors` has them inside A.
    initial: the matrix from which A was trained, if it is known; see hydraopt.adapters.start.
    """

    path: str
    kind: Kind
    m: int
    n: int
    r: int
    scale: float
    a: RawTensor
    b: RawTensor
    layout: Layout = "plain"
    group: int = 0
    groups: int = 1
    between: RawTensor | None = None
    initial: Drawn | None = None

    @property
    def a_shape(self) -> tuple[int, ...]:
        """Shape of A as stored."""
        return self.a.shape

    @property
    def b_shape(self) -> tuple[int, ...]:
        """Shape of B as stored."""
        return self.b.shape

    @property
    def numbers(self) -> int:
        """Numbers this module stores: r * (m + n)."""
        return self.r * (self.m + self.n)

    def factors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (B, A) with ``dW = B @ A``: B (m, r) with the scale inside, A (r, n), float32.

        Both are fresh, contiguous, writable arrays; the file is read on every call, so hold on to
        the result rather than calling twice. Values are the stored ones, B multiplied by the scale
        and A by what is between, in float64 and rounded once; where one side is far larger than
        the other, a power of two goes from it to the other first, which changes no product.

        Raises NumericalError, naming file and module, if a value is NaN or infinite, the scaled B
        leaves float32, or a side is all zero there and was not; AdapterFormatError if the file
        changed since it was opened.
        """
        stored_b, stored_a = self._split(_stored(self.b), _stored(self.a))
        # An overflow becomes infinity, and NaN stays, which the check below reports by name.
        with np.errstate(over="ignore", invalid="ignore"):
            wide = stored_b.astype(np.float64) * self.scale
            if self.between is not None:
                stored_a = stored_a.astype(np.float64) * self.between.float64()
            shift = _shift(wide, stored_a)
            if shift:
                wide = np.ldexp(wide, -shift)
                stored_a = np.ldexp(stored_a.astype(np.float64), shift)
            scaled, a = wide.astype(np.float32), stored_a.astype(np.float32)
        self._check("A", self.a, stored_a, a)
        self._check("B", self.b, wide, scaled)
        return np.ascontiguousarray(scaled), np.ascontiguousarray(a)

    def _check(
        self, side: str, tensor: RawTensor, true: NDArray[Any], values: NDArray[Any]
    ) -> None:
        """Raise NumericalError for a side with NaN, infinity or numbers that float32 cannot hold.

        true: the numbers as stored; values: in float32.
        """
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if not bad and (values.any() or not true.any()):
            return
        what = f"{side} holds NaN or infinity, or overflows float32 once scaled"
        got, expected = f"{bad} bad of {values.size} numbers in {tensor.name!r}", "finite numbers"
        do = "This adapter's training diverged or its file is damaged; leave it out"
        if not bad:
            what, expected = f"{side} is nothing in float32", "at least 1e-45"
            got = f"numbers of at most {float(np.abs(true).max()):.3g}"
            do = "No model sees such a change: leave the adapter out"
        where = {"file": tensor.source, "module": self.path}
        raise NumericalError(explain(what, **where, got=got, expected=expected, do=do))

    def _split(self, b: NDArray[Any], a: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return this module's own (m, r) and (r, n) out of the stored arrays."""
        m, n, r, g = self.m, self.n, self.r, self.group
        if self.layout == "transposed":
            return b.T, a.T
        if self.layout == "rows":
            return b.reshape(-1, r)[g * m : (g + 1) * m], a.reshape(-1, n)[g * r : (g + 1) * r]
        if self.layout == "experts":
            return b[:, g :: self.groups], a[g * r : (g + 1) * r]
        return b.reshape(m, r), a.reshape(r, n)


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """Adapter, read lazily: opening it reads headers, tensors are read on demand.

    name: task name, unique among adapters read together.
    source: the weight file.  format: who wrote it; see the reader.
    base_model: as written in the config or given by the caller; None if unknown.
    config: ``adapter_config.json`` as parsed. Formats without one get a PEFT-like config (r,
        lora_alpha, target_modules, patterns) with the original settings under "hydraopt".
    modules: low-rank modules by path, sorted.
    extras: every other tensor under its own key, in file order. The modules' ``a`` and ``b``, the
        ``.alpha`` scalars that went into the scales, and the extras are together the whole file.
    tensors: the whole file, original keys, file order.
    extra_kinds: what each extra is; same keys as ``extras``.
    notes: what a user should know (a choice the reader made, a setting it does not understand).
    peft_keys: (module path, side) to key; use :meth:`peft_key`.
    """

    name: str
    source: AnyPath
    format: Format
    base_model: str | None
    config: Mapping[str, Any]
    modules: Mapping[str, LowRankModule]
    extras: Mapping[str, RawTensor]
    tensors: Mapping[str, RawTensor]
    extra_kinds: Mapping[str, ExtraKind] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    peft_keys: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{self.format}, {len(self.modules)} modules"
        return f"Adapter({self.name!r}, {what}, {str(self.source)!r})"

    @property
    def numbers(self) -> int:
        """Number of values in the file, so ``2 * numbers`` is its size in fp16."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def revision(self) -> str | None:
        """Revision of the base model, if the config states one."""
        value = self.config.get("revision")
        return value if isinstance(value, str) and value else None

    def peft_key(self, module_path: str, side: Literal["A", "B"]) -> str:
        """Return the key under which PEFT loads A or B of a module.

        For files that PEFT wrote this is the original key, less an adapter name that very old
        versions left inside; other formats get "base_model.model.{path}.lora_A.weight". Groups of
        one stored pair ("...::0", "...::2") share their key.

        Raises UsageError for an unknown path or side.
        """
        try:
            return self.peft_keys[module_path, side]
        except KeyError:
            raise UsageError(
                explain(
                    "no such module or side",
                    adapter=self.name,
                    got=f"({module_path!r}, {side!r})",
                    expected='a path of adapter.modules and "A" or "B"',
                )
            ) from None

    def check_finite(self) -> None:
        """Read every tensor once; raise NumericalError at the first NaN or infinity.

        Modules are judged as :meth:`LowRankModule.factors` judges them, extras as stored. Memory:
        one module at a time.
        """
        for module in self.modules.values():
            module.factors()
        for key, tensor in self.extras.items():
            if tensor.is_float and not np.isfinite(tensor.numpy()).all():
                raise NumericalError(
                    explain(
                        "a tensor holds NaN or infinity",
                        adapter=self.name,
                        file=self.source,
                        module=key,
                        do="This adapter's training diverged or its file is damaged; leave it out",
                    )
                )

    def content_hash(self) -> str:
        """Return the sha256 (hex) of the adapter's effect: equal for equal content under any names.

        Covers every tensor (key, dtype, shape, bytes), each module's path, kind, shape and resolved
        scale, and the settings that change the function. Task name, file name, key order, name of
        the base model, PEFT version and training settings do not count.
        """
        digest = hashlib.sha256()
        about = {
            "modules": [
                [path, x.kind, x.m, x.n, x.r, float(x.scale).hex(), x.layout, x.group, x.groups]
                for path, x in sorted(self.modules.items())
            ],
            "settings": {
                key: sorted(value, key=str) if key == "modules_to_save" else value
                for key in _FUNCTIONAL_SETTINGS
                if (value := self.config.get(key))
            },
            # As a name it may mean a changed base (PiSSA); true and false only say how B began.
            "start": start
            if isinstance(start := self.config.get("init_lora_weights"), str)
            else "",
        }
        if self.config.get("peft_type") not in (None, "LORA"):
            # The tensors of other tuners mean what their settings say.
            about["tuner"] = {k: x for k, x in self.config.items() if k not in _IDLE_SETTINGS}
        digest.update(json.dumps(about, sort_keys=True, ensure_ascii=True).encode())
        for key in sorted(self.tensors):
            tensor = self.tensors[key]
            digest.update(json.dumps([key, tensor.dtype, list(tensor.shape)]).encode())
            digest.update(tensor.raw())
        return digest.hexdigest()
