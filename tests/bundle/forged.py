"""Bundles that nobody merged: well-formed files whose parts need not fit together.

:func:`forgeries` draws them for hypothesis: every kind of module, record, tensor, dtype, layout and
format, names of many formats, and configs whose settings have other types and values than any
writer gives them. Checksums and streams are right, so a reader has to see what is wrong.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hydraopt.adapters import DTYPE_BYTES
from hydraopt.bundle import pack_carried
from hydraopt.codec import (
    ChunkWriter,
    DenseRecord,
    Drawn,
    KnownStart,
    PartsRecord,
    Way,
    matrix_shape,
    write_dense,
    write_record,
)
from hydraopt.codec.records import quantise_rest
from hydraopt.codec.sides import quantise_side, quantise_started
from tests.native.mutants import Pieces

PREFIX = "base_model.model."
FLOATS = [x for x in DTYPE_BYTES if "F" in x]
KINDS = (
    "dora_magnitude", "lora_bias", "bias", "token_rows", "saved", "tuner", "tuner_ones", "exact",
)  # fmt: skip
FORMATS = ("peft", "kohya", "diffusers", "loralib", "mlx")
NAMES = ("de", "en", "--all", "-o", "it's", "\u4e2d", "a b", "--", "x" * 200)
PATHS = ("h.0.q", "h.1.q", "q", "x.h.0.q", "h.0.base_layer.q", "h.0", "lora_unet_q", "unet.q",
         "a.modules_to_save.b", "h.0.q.base_layer", "conv", "h:0", "h.0.q.lora_A")  # fmt: skip

SETTINGS: Mapping[str, Sequence[Any]] = {
    "peft_type": (None, "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "VERA", "XLORA", "OFT", "NEW",
                  "", 5, ["LORA"], {}, "LORA, KaSA", "LORA, Arrow", "lora", "Z" * 90),
    "r": (None, 0, -1, 1, 2, 3, 8, 2**31 - 1, 2**31, 10**30, 1.5, 2.0, True, "4", [], {}),
    "lora_alpha": (None, 0, -0.0, -3, 1, 8, 0.1, 1e299, 1e300, 10**400, True, "8", [], {}),
    "alpha": (None, 0, -3, 6, 0.25, 1e300, False, "6", {}),
    "init_r": (None, 0, 1, 2, 4, 2**31, 2.0, True, "4"),
    "rank_pattern": (
        None, {}, [], "x", False, 0, 7, {"q": 3}, {"q": 0}, {"q": True}, {"q": 2.0}, {"q": 2**31},
        {"(": 3}, {"(?=h)h.*": 2}, {"^h": 2}, {"h.0": 1}, {r"h\.\d\.q": 1, "q": 4}, {"": 2},
        {"h.0.q.lora_E": [True, False, True, False]}, {"h.0.q.lora_E": [True]},
        {"h.0.q.lora_E.default": [True, True, True, True]}, {"h.0.q": [1, 0, 1, 1]},
        {"q{1001}{1001}": 2}, {"a" * 70000: 2}, {"q|h": 3}, {"\n": 1},
    ),
    "alpha_pattern": (None, {}, [], {"q": 4}, {"q": 0}, {"q": "4"}, {"[": 1}, {"q": 1e300},
                      {"q": True}, {"(?<!x)q": 2}),
    "use_rslora": (None, True, False, 0, 1, "no", "", {}, [0]),
    "use_dora": (None, True, False, 1, "x"),
    "lora_bias": (None, True, False, "x"),
    "bias": (None, "none", "all", "lora_only", 1, {}, ""),
    "init_lora_weights": (
        None, True, False, "pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga",
        "gaussian", "orthogonal", "", "xPiSSAx", {}, {"pissa": 1}, {"a": {"b": ["olora"]}}, [],
        ["pissa"], 0, 1, 2.5, {"p\u00efssa": "pis\\u0073a"}, {"a": "pis\nsa"}, ["pis", "sa"],
    ),
    "target_modules": (
        None, [], ["q"], ["h.0.q", "conv"], "all-linear", "ALL-LINEAR", ".*q", ".*(q|conv)", "(",
        "(?=h)h.*", "q{1001}{1001}", ["", ".q"], [1, None], {"q": 1}, 0, True, "\\", "h.0.q\n",
    ),
    "exclude_modules": (None, [], ["q"], ".*1.*", "(", "(?i)Q", {}, 5),
    "layers_to_transform": (None, [], 0, [0], [0, 1], "0", True, [True], [0.0], {}, 10**30, -1),
    "layers_pattern": (None, "", "h", ["h"], [], ["(", "h"], "(", "(h)", 3, {}),
    "target_parameters": (None, [], ["h.0.up"], ["q.up"], "q.up", {}, {"a": 1}, 0, 1, True, [3]),
    "enable_lora": (None, True, [], [True], [True, False, True], [1, 0, 1], "ttt", {}, [False] * 3,
                    [True] * 40, [None, []]),
    "modules_to_save": (None, [], ["head"], "head", 0, {}, [1]),
    "base_model_name_or_path": (None, "", "org/x", 0, 1, {}, [], ["x"], "\x7f\u2028"),
    "kasa_config": (None, {}, {"a": 1}), "use_bdlora": (None, False, True, 1),
    "arrow_config": (None, {}, {"a": 1}), "use_qalora": (None, True),
    "hydraopt": (None, {}, {"format": "kohya"}, {"metadata": {"a": 1}}, {"config": 3}, 5, "x"),
    "feedforward_modules": (None, []), "merge_weights": (True,), "task_type": ("CAUSAL_LM", 5),
    "alora_invocation_tokens": (None, [1]), "layer_replication": (None, [[0, 1]]), "\u4e2d": (1.5,),
    "beta1": (0.85,), "tinit": (1,), "total_step": (10,),
    "lora_parameters": (None, {"rank": 2, "scale": 2.0}, {"scale": "x"}, {}),
}  # fmt: skip
COMMON = ("r", "lora_alpha", "alpha", "init_r", "rank_pattern", "init_lora_weights",
          "target_modules", "enable_lora", "peft_type", "target_parameters")  # fmt: skip
SOUND: Mapping[str, Mapping[str, Any]] = {
    "LORA": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "conv"]},
    "FUSED": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "enable_lora": [True, False, True]},
    "PISSA": {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "init_lora_weights": "pissa"},
    "ADALORA": {"peft_type": "ADALORA", "r": 8, "init_r": 4, "lora_alpha": 4},
    "LOHA": {"peft_type": "LOHA", "r": 4, "alpha": 6, "target_modules": ["q"]},
    "LOKR": {"peft_type": "LOKR", "r": 4, "alpha": 6, "target_modules": ["q"]},
    "IA3": {"peft_type": "IA3", "target_modules": ["q"], "feedforward_modules": []},
    "none": {},
}
ENDS = (
    "head.weight", "head.bias", "h.0.q.lora_B.bias", "h.0.q.lora_B.default.bias",
    "h.0.q.lora_magnitude_vector", "h.0.q.lora_magnitude_vector.default", "h.0.q.bias",
    "h.0.q.lora_A.weight", "h.0.q.lora_B.weight", "h.0.q.lora_A.default.weight", "h.0.q.lora_E",
    "h.0.q.lora_embedding_A", "h.0.q.hada_w1_a", "h.0.q.hada_w1_b", "h.0.q.hada_w2_a",
    "h.0.q.hada_w2_b", "h.0.q.lokr_w1", "h.0.q.lokr_w2_a", "h.0.q.ia3_l", "h.0.q.vera_lambda_b",
    "h.0.q.base_layer.weight", "embed.token_adapter.trainable_tokens_delta",
    "embed.token_adapter.trainable_tokens_delta.default", "head.modules_to_save.default.weight",
    "head.modules_to_save.weight", "head.original_module.weight", "lora_velora_embed",
    "h.0.q.lora_diag", "h.0.q.m", "h.0.q.dora_scale", "h.0.q.alpha", "ranknum", "",
    "h.0.q.lora_down.weight", "h.0.q.lora_up.weight", "h.0.q.lora_a", "h.0.q.lora_b",
    "_orig_mod.head.weight", "x\x00y", "x\u2028", "oft_blocks",
)  # fmt: skip
SHAPES = ((), (0,), (1,), (3,), (6,), (6, 1), (1, 6), (4, 6), (6, 4), (4, 8), (2, 0), (2, 3, 1, 1),
          (1,) * 33, (1 << 30, 0), (1 << 21, 1 << 21, 0))  # fmt: skip


@st.composite
def configs(draw: st.DrawFn, tuner: str) -> dict[str, Any]:
    """A config of a tuner, or a few times of any; sound or with a few settings that are not."""
    if not draw(st.integers(0, 15)):
        tuner = draw(st.sampled_from(sorted(SOUND)))
    config = dict(SOUND[tuner])
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 1, 2, 3)))):
        names = draw(st.sampled_from((COMMON, tuple(SETTINGS))))
        name = draw(st.sampled_from(names))
        value = draw(st.sampled_from((*SETTINGS[name], ...)))
        config.pop(name, None)
        if value is not ...:
            config[name] = value
    return config


_LAYOUTS: Mapping[str, Sequence[str]] = {
    "LORA": ("plain", "plain", "plain", "experts", "transposed"), "PISSA": ("plain", "experts"),
    "FUSED": ("rows", "rows", "plain"), "ADALORA": ("plain",), "LOHA": ("factor",),
    "LOKR": ("factor",), "IA3": (), "none": ("plain", "rows"),
}  # fmt: skip


@st.composite
def modules(draw: st.DrawFn, tuner: str) -> list[dict[str, Any]]:
    """Rows of the table of modules that a tuner may have, all groups of one stored pair; a few
    times of any tuner, or with one value that does not fit."""
    if not draw(st.integers(0, 15)):
        tuner = draw(st.sampled_from(sorted(_LAYOUTS)))
    if not _LAYOUTS[tuner]:
        return []
    layout = draw(st.sampled_from(_LAYOUTS[tuner]))
    kind = "linear"
    if layout != "factor" and tuner != "ADALORA":
        kind = draw(st.sampled_from(("linear",) * 4 + ("embedding", "conv")))
    path = draw(st.sampled_from(PATHS[:3] * 3 + PATHS))
    m, n = draw(st.sampled_from(((6, 8), (4, 6), (6, 4), (1, 1), (3, 18), (8, 2))))
    row = {"path": path, "kind": kind, "m": m, "n": n, "layout": layout, "group": 0, "groups": 1}
    row["a_tail"] = draw(st.sampled_from(([n], [1], [1, n]))) if kind == "conv" else []
    rows = [row]
    if layout in ("rows", "experts"):
        groups = draw(st.sampled_from((1, 2, 2, 3, 40, 1 << 20)))
        there = range(min(groups, draw(st.sampled_from((1, 2, 3)))))
        slots = draw(st.sampled_from(((0, 1, 2), (0, 2, 1), (2, 1, 0), (0, 39, 9999999))))
        rows = [{**row, "groups": groups, "group": g, "path": f"{path}::{slots[g]}"} for g in there]
    if layout == "factor":
        end = f".{m}x{n}" if tuner == "LOKR" else draw(st.sampled_from(("", "", f".{m}x{n}")))
        both = draw(st.sampled_from(((0, 1), (0,), (1,))))
        rows = [{**row, "groups": 2, "group": g, "path": f"{path}::w{g + 1}{end}"} for g in both]
    if draw(st.integers(0, 24)) == 0:
        name = draw(st.sampled_from(sorted(row)))
        odd: tuple[Any, ...] = (None, 0, -1, 1.0, True, "", "::w1", [], [0], 1 << 24,
                                (1 << 24) + 1, 3, 2)  # fmt: skip
        draw(st.sampled_from(rows))[name] = draw(st.sampled_from(odd))
    return rows


def _number(value: Any, usual: int) -> int:
    return value if type(value) is int and 1 <= value <= 64 else usual


_START = KnownStart(42, 1000)


@st.composite
def sides(
    draw: st.DrawFn, row: Mapping[str, Any], start: KnownStart | None = None
) -> PartsRecord | None:
    """Some parts of a module of that row, maybe none, or over the initial A of a start."""
    m, n = _number(row["m"], 1), _number(row["n"], 1)
    k = draw(st.sampled_from((0, 1, 2, 2, 3, 4, 5)))
    k = min(k, 2 * min(m, n) + 1)
    if not k:
        return None
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    left, right = (
        quantise_side(np.rint(rng.standard_normal((x, k)) * 9), Way.EXPLICIT, None) for x in (m, n)
    )
    if start is not None and draw(st.booleans()):
        drawn = Drawn(start, draw(st.sampled_from((0, 623, start.numbers - 3 * n))), 3)
        own = np.full(draw(st.integers(0, 2)), 20.0)
        right = quantise_started(right.values, drawn, np.ones(k), own)
    grid = draw(st.sampled_from((-200, -200, -200, 0, 700, 1200, 6000, -6400, 6400)))
    return PartsRecord(left, right, np.full(k, grid, np.int64))


def _names(of: Sequence[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(of).flatmap(
        lambda end: st.sampled_from((PREFIX + end,) * 3 + (end, f"{PREFIX}model.{end}"))
    )


@st.composite
def extras(draw: st.DrawFn) -> dict[str, Any]:
    """Carried tensors by key, of any dtype."""
    made = {}
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3)))):
        key = draw(_names(ENDS))
        dtype = draw(st.sampled_from(("F32", "F32", "F16", "BF16", *DTYPE_BYTES)))
        shape = draw(st.sampled_from(SHAPES[:-3] * 2 + SHAPES))
        size = int(np.prod(shape, dtype=object)) * DTYPE_BYTES[dtype]
        fill = draw(st.sampled_from((0, 60, 63, 124, 127, 128, 255)))
        made[key] = _Plain(key, dtype, shape, bytes([fill]) * size)
    return made


class _Plain:
    """What :func:`pack_carried` needs of a tensor, without its bound on axes."""

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
        self.name, self.dtype, self.shape, self._data = name, dtype, shape, data
        self.nbytes = len(data)

    def raw(self) -> bytes:
        return self._data


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """A row of the table of coded tensors."""
    return {
        "key": draw(_names([end for end in ENDS if end.isprintable() and end])),
        "dtype": draw(st.sampled_from(("F16", "BF16", "F32", "F64"))),
        "shape": list(draw(st.sampled_from(((6,), (6, 1), (4, 8), (), (1, 1), (6, 4), (2, 3, 2))))),
        "kind": draw(st.sampled_from(KINDS + ("saved",) * 8)),
        "base": draw(st.sampled_from((None,) * 12 + ("0123456789abcdef",))),
    }


@st.composite
def forgeries(draw: st.DrawFn) -> bytes:
    """The bytes of a bundle."""
    tuner = draw(st.sampled_from(sorted(SOUND)))
    pairs = draw(st.lists(modules(tuner), max_size=3))
    rows = _apart(draw, [row for rows in pairs for row in rows], "path")
    coded = _apart(draw, draw(st.lists(tensors(), max_size=2)), "key")
    held = [draw(configs(tuner))]
    if (other := draw(configs(tuner))) != held[0] and draw(st.booleans()):
        held.append(other)
    names = sorted(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)))
    carried = {name: draw(extras()) for name in names}
    packed = pack_carried(carried)
    streams: list[bytes] = []
    tasks = []
    for i, name in enumerate(names):
        task, stream = draw(_tasks(rows, coded, carried[name], len(streams)))
        config = min(i, len(held) - 1)
        tasks.append({"name": name, "config": config, **task})
        tasks[-1]["carried"] = list(packed.tasks[name])
        streams += [stream] if stream is not None else []
    first, rest = held[0], held[1 : len(names)]
    later = [{"set": dict(more), "drop": sorted(set(first) - set(more))} for more in rest]
    value: dict[str, Any] = {
        "modules": _table(rows, "path"),
        "tasks": _table(tasks, "name"),
        "blobs": [
            {
                "key": [x.key for x in blob.items],
                "dtype": [x.dtype for x in blob.items],
                "shape": [list(x.shape) for x in blob.items],
                "of": [x.of for x in blob.items],
            }
            for blob in packed.blobs
        ],
        "configs": [first, *later],
        "base_model": "org/tiny",
    }
    if coded:
        value["tensors"] = _table(coded, "key")
    payload = {"shared": b""}
    payload |= {f"task/{i}": x for i, x in enumerate(streams)}
    payload |= {f"carried/{i}": x for i, x in enumerate(packed.data)}
    about = {"format": "hydraopt", "format_version": "2", "base_model": "org/tiny"}
    ordered = draw(st.booleans())  # readers accept any order of keys
    return Pieces(about, json.dumps(value, sort_keys=ordered).encode(), payload).pack()


def _apart(draw: st.DrawFn, rows: list[dict[str, Any]], lead: str) -> list[dict[str, Any]]:
    """The rows, most often without those of a name that there is already."""
    if not draw(st.integers(0, 30)):
        return rows
    return list({repr(row[lead]): row for row in rows}.values())


def _stream(
    draw: st.DrawFn,
    rows: Sequence[Mapping[str, Any]],
    coded: Sequence[Mapping[str, Any]],
    start: KnownStart | None,
) -> bytes:
    """The stream of a task with these modules, coded tensors and start."""
    writer = ChunkWriter()
    for row in rows:
        record = draw(sides(row, start))
        write_record(writer, record, start is not None)
        writer.end_record(record.numbers if record else 0)
    for tensor in coded:
        shape = tensor["shape"]
        n, k = matrix_shape(shape)
        rng = np.random.default_rng(draw(st.integers(0, 3)))
        dense = DenseRecord()
        if draw(st.integers(0, 4)):
            step = draw(st.sampled_from((-256, 0, 5000, 30000)))
            dense = DenseRecord(rest=quantise_rest(np.rint(rng.standard_normal((n, k)) * 9), 0))
            assert dense.rest is not None
            dense = DenseRecord(rest=type(dense.rest)(step, dense.rest.blocks))
        write_dense(writer, dense)
        writer.end_record(dense.numbers(n * k, bounded=tensor["base"] is not None))
    return writer.finish()


@st.composite
def _tasks(
    draw: st.DrawFn,
    rows: Sequence[Mapping[str, Any]],
    coded: Sequence[Mapping[str, Any]],
    carried: Mapping[str, Any],
    content: int,
) -> tuple[dict[str, Any], bytes | None]:
    """A row of the table of tasks, but for what it shares with others, and its stream."""
    lossless = draw(st.integers(0, 3)) == 0
    some = list(range(len(rows))) if draw(st.integers(0, 3)) else []
    own = list(range(len(coded))) if draw(st.booleans()) and not lossless else []
    keys = [*carried, *(coded[i]["key"] for i in own)]
    task: dict[str, Any] = {
        "format": draw(st.sampled_from(("peft",) * 6 + FORMATS)),
        "dtype": draw(st.sampled_from(("F32", "F16", "BF16", *FLOATS))),
        "lossless": lossless,
        "modules": "all" if some or not rows else [],
        "errors": b64encode(b"(" * len(some)).decode().rstrip("="),
        "tensors": "all" if own else [],
        "tensor_errors": b64encode(b"(" * len(own)).decode().rstrip("="),
        "extra_kinds": {
            key: draw(st.sampled_from(_likely(key)))
            for key in keys
            if draw(st.integers(0, 2)) and key in carried
        },
        "base_model": draw(st.sampled_from((None, None, "org/other"))),
        "metadata": draw(st.sampled_from(({}, {}, {"format": "pt"}, {"a": "\u00e9\x7f"}))),
    }
    biases = [key for key in keys if key.endswith("bias") or draw(st.integers(0, 9)) == 0]
    scales = (1, 1.0, 2.5, 2.5, 0, -1, 1e300, 1e-300, 10**20)
    task["bias_scales"] = {
        key: draw(st.sampled_from(scales)) for key in biases if draw(st.integers(0, 3))
    }
    if biases and not draw(st.integers(0, 30)):
        task["bias_scales"][biases[0]] = draw(st.sampled_from((True, "1", None, -1e309, 10**400)))
    named = []
    for i in some:
        for half in "AB":
            if draw(st.integers(0, 7)) == 0:
                named.append([i, half, draw(_keys(str(rows[i]["path"]), half))])
    task["keys"] = named
    if lossless or not (some or own):
        task["content"] = None
        task["start"] = draw(st.sampled_from((None,) * 12 + ([42, 1000],)))
        return task, None
    task["content"] = content
    start = draw(st.sampled_from((None, None, _START)))
    # A few times the manifest says another thing than the stream.
    stated = draw(st.sampled_from((start,) * 12 + (None, KnownStart(42, 9), KnownStart(7, 1000))))
    task["start"] = stated and [stated.seed, stated.numbers]
    return task, _stream(draw, [rows[i] for i in some], [coded[i] for i in own], start)


def _likely(key: str) -> tuple[str, ...]:
    right = {
        "lora_magnitude_vector": "dora_magnitude", "bias": "lora_bias", "ia3_l": "tuner_ones",
        "trainable_tokens_delta": "token_rows",
    }  # fmt: skip
    kind = next((x for end, x in right.items() if key.removesuffix(".default").endswith(end)), "")
    return (kind,) * 12 + KINDS if kind else KINDS + ("saved",) * 8


def _keys(path: str, half: str) -> st.SearchStrategy[str]:
    stem = path.partition("::")[0]
    names = (
        f"{PREFIX}{stem}.base_layer.x.lora_{half}.weight", f"{stem}.lora_{half}.default.weight",
        f"{PREFIX}{stem}.lora_embedding_{half}", f"{PREFIX}h.0.q.lora_A.weight",
        f"{PREFIX}h.1.q.lora_{half}.weight", f"{PREFIX}{stem}.lora_{'AB'[half == 'A']}.weight",
        "odd", f"_orig_mod.{stem}.lora_{half}.weight",
    )  # fmt: skip
    return st.sampled_from(names)


def _table(rows: Sequence[Mapping[str, Any]], lead: str) -> dict[str, Any]:
    """A table with a list for each column."""
    names = dict.fromkeys(name for row in rows for name in row) or {lead: None}
    return {name: [row[name] for row in rows] for name in names}
