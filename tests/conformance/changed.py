"""Golden bundles with one thing changed and right checksums; most are about giving a task back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.forging import (
    BIAS,
    FINE,
    HEAD,
    NO,
    PAIR,
    PREFIX,
    WIDTHS,
    A,
    B,
    Case,
    Verdict,
    carried,
    damaged,
    forged,
    lossless,
    modules,
    more,
    tasks,
    together,
)


def cases() -> Iterator[Case]:
    """All of them: a name, the file, the verdict."""
    yield from _lossless()
    yield from _configs()
    yield from _tensors()
    yield from _layouts()
    yield from _files()


def _lossless() -> Iterator[Case]:
    more = {f"{PREFIX}h.0.x.lora_A.weight": ("F16", [2, 2], bytes(8))}
    for name, tensors, config in (
        ("sound", PAIR, {}),
        ("of-another-rank", PAIR, {"r": 7}),
        ("without-a-rank", PAIR, {"r": ...}),
        ("half-a-pair", {A: PAIR[A]}, {}),
        ("of-other-shapes", {**PAIR, B: ("F16", [2, 6], bytes(24))}, {}),
        ("of-another-tuner", PAIR, {"peft_type": "LOHA"}),
        ("of-an-unknown-tuner", PAIR, {"peft_type": "NEW"}),
        ("with-half-a-pair-more", {**PAIR, **more}, {}),
        ("of-no-floats", {**PAIR, BIAS: ("U8", [6], bytes(6))}, {"lora_bias": True}),
        ("of-odd-settings", PAIR, {"init_lora_weights": {}, "use_rslora": [], "bias": 5}),
        ("of-many-axes", {**PAIR, "x": ("F32", [1] * 64, bytes(4))}, {}),
        ("of-no-numbers", {**PAIR, "x": ("F32", [1 << 21, 1 << 21, 0], b"")}, {}),
    ):
        yield f"lossless-{name}", forged("linear", lossless(tensors), **config), FINE
    yield "lossless-nothing", forged("linear", _nothing), FINE

    def others(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
        lossless(PAIR, modules="all", errors="/w")(whole, payload)
        whole["modules"] = {"path": ["h.1.q"], "m": [6], "n": [8]}

    yield "lossless-of-other-modules", forged("linear", others), FINE
    kohya = {
        "lora_unet_q.lora_down.weight": ("F16", [2, 8], bytes(32)),
        "lora_unet_q.lora_up.weight": ("F16", [6, 2], bytes(24)),
    }
    change = lossless(kohya, format="kohya")
    yield "lossless-kohya", forged("kohya", change), Verdict(lacking=("adapter",))
    half = lossless({"lora_unet_q.lora_down.weight": ("F16", [2, 8], bytes(32))}, format="kohya")
    yield "lossless-kohya-half", forged("kohya", half), Verdict("ok", "unsupported")
    mlx = lossless(PAIR, format="mlx")
    yield "lossless-mlx-of-peft", forged("mlx", mlx), Verdict("ok", "unsupported")


def _nothing(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
    del payload["task/0"]
    whole["modules"] = {"path": []}
    whole["tasks"].update({"content": [None], "lossless": [True], "errors": [""]})


def _configs() -> Iterator[Case]:
    # What is no text does not change the base, whatever stands behind it in the config.
    for name, value in (
        ("object", {}), ("object-of-pissa", {"pissa": 1}), ("list-of-pissa", ["pissa"]),
        ("number", 0), ("null", None),
    ):  # fmt: skip
        data = forged("linear", init_lora_weights=value, loftq_config={"loftq": 1}, r=1)
        yield f"init-{name}", data, FINE
    yield "init-pissa-in-another-setting", forged("linear", x="pissa", r=1), FINE
    for name, value in (
        ("missing", ...), ("null", None), ("zero", 0), ("a-text", "4"), ("a-fraction", 4.0),
        ("true", True), ("huge", 10**30), ("of-2-31", 2**31), ("a-list", [4]), ("too-small", 1),
        ("too-large-for-the-file", 2**31 - 1),
    ):  # fmt: skip
        yield f"rank-{name}", forged("linear", r=value), FINE
    for name, value, word in (
        ("null", None, FINE), ("a-number", 4, damaged(9)), ("empty", [], damaged(9)),
        ("short", [4], damaged(9)), ("of-a-text", ["4", 1.5], damaged(9)),
        ("of-true", [True, 1.5], damaged(9)), ("of-a-fraction", [4.0, 1.5], damaged(9)),
        ("negative", [-1, 1.5], damaged(9)), ("of-2-31", [2**31, 1.5], damaged(9)),
        ("of-a-list", [[4], 1.5], damaged(9)), ("of-0", [0, 1.5], NO), ("too-small", [1, 1.5], NO),
        ("too-large-for-the-file", [2**31 - 1, 1.5], NO), ("of-scale-true", [4, True], damaged(9)),
        ("of-scale-null", [4, None], damaged(9)), ("of-a-huge-scale", [4, 10**400], damaged(9)),
        ("of-scale-0", [4, 0], FINE), ("of-a-negative-scale", [4, -1.5], FINE),
        ("of-another", [4, 1.5, [1, 5, 1.2]], FINE), ("of-no-list", [4, 1.5, 5], damaged(9)),
        ("of-no-such-module", [4, 1.5, [2, 5, 1.2]], damaged(11)),
        ("of-a-short-row", [4, 1.5, [1, 5]], damaged(9)),
        ("of-a-long-row", [4, 1.5, [1, 5, 1.2, 0]], damaged(9)),
        ("of-a-list-in-a-row", [4, 1.5, [1, [5], 1.2]], damaged(9)),
        ("stated-twice", [4, 1.5, [1, 4, 1.5]], damaged(9)),
        ("falling", [4, 1.5, [1, 5, 1.2], [0, 5, 1.2]], damaged(11)),
        ("of-one-module-twice", [4, 1.5, [1, 5, 1.2], [1, 6, 1.2]], damaged(11)),
        ("of-the-largest-scale", [4, 2**1024 - 2**970 - 1], FINE),
        ("of-a-scale-beyond-a-double", [4, 2**1024 - 2**970], damaged(9)),
        ("of-a-tiny-scale", [4, 1e-160], Verdict("ok", "range")),
    ):  # fmt: skip
        yield f"ranks-{name}", forged("pissa", tasks(ranks=value)), word
    pair = together(tasks(modules=[0, 1], errors="/w"), modules(path=["h.0.q", "h.0.v"]))
    row = together(pair, tasks(ranks=[4, 1.5, [1, 5, 1.2]]))
    yield "ranks-of-a-module-it-lacks", forged("pissa", row), damaged(11)
    yield "ranks-of-a-linear", forged("linear", tasks(ranks=[2, 2.0])), FINE
    yield "ranks-of-a-lossless", forged("linear", lossless(PAIR, ranks=[2, 2.0])), damaged(13)
    for name, value in (("missing", ...), ("null", None), ("a-text", "q")):
        yield f"targets-{name}", forged("targets", target_modules=value), FINE
    yield "targets-of-a-number", forged("linear", target_modules=5), FINE
    yield "parameters-of-a-text", forged("linear", target_parameters="q"), FINE
    yield "unknown-settings", forged("linear", x={"y": [1.5, None, "\u4e2d"]}), FINE
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    yield "deep", forged("linear", x=deep), damaged(7)


def _tensors() -> Iterator[Case]:
    half = bytes([0, 60]) * 6
    for name, dtype, scale, word in (
        ("u8-scaled", "U8", 1.75, NO), ("u8-of-scale-1", "U8", 1, FINE),
        ("f8-scaled", "F8_E4M3", 1.75, FINE), ("f64-scaled", "F64", 1.75, FINE),
        ("without-a-scale", "F16", ..., NO), ("scale-true", "F16", True, damaged(9)),
        ("scale-huge", "F16", 10**400, damaged(9)), ("scale-large", "F16", 1e30, FINE),
        ("scale-beyond", "F16", 1e300, Verdict("ok", "range")), ("scale-zero", "F16", 0, FINE),
    ):  # fmt: skip
        data = half if dtype == "F16" else bytes(6 * WIDTHS[dtype])
        scales = {} if scale is ... else {BIAS: scale}
        change = carried({BIAS: (dtype, [6], data)}, bias_scales=scales)
        yield f"bias-{name}", forged("bias", change), word
    change = carried({BIAS: ("F16", [1] * 33 + [6], half)}, bias_scales={BIAS: 2})
    yield "bias-of-many-axes", forged("bias", change), FINE
    plain = {"extra_kinds": {}, "bias_scales": {}}
    for name, tensors, word in (
        ("saved-u8", {HEAD: ("U8", [3], b"abc")}, FINE),
        ("saved-of-many-axes", {HEAD: ("F32", [1] * 33, bytes(4))}, FINE),
        ("saved-of-no-numbers", {HEAD: ("F32", [1 << 30, 0], b"")}, FINE),
        ("of-one-name", {HEAD: ("U8", [1], b"a"), "head.weight": ("U8", [1], b"b")}, NO),
        ("of-a-pairs-name", {A: ("F16", [2, 8], bytes(32))}, NO),
        ("of-no-name", {"": ("U8", [1], b"a")}, FINE),
        ("of-a-name-with-a-zero", {"x\0y": ("U8", [1], b"a")}, Verdict(lacking=("tensors",))),
        ("of-another-tuner", {f"{PREFIX}h.0.q.ia3_l": ("F16", [6], half)}, FINE),
    ):
        yield f"tensor-{name}", forged("bias", carried(tensors, **plain)), word

    def based(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        whole["tensors"]["base"] = ["0123456789abcdef", None]

    yield "tensor-of-a-base", forged("coded", based), Verdict("ok", "unsupported")

    def axes(whole: dict[str, Any], _: dict[str, bytes]) -> None:
        whole["tensors"]["shape"] = [[3, 8] + [1] * 62, [3]]

    yield "tensor-coded-of-many-axes", forged("coded", axes), FINE
    extra = carried({"lora_unet_q.alpha": ("F16", [], bytes(2))})
    yield "kohya-tensor-without-a-place", forged("kohya", extra), Verdict("ok", "unsupported")


def _layouts() -> Iterator[Case]:
    yield (
        "fused-without-slots",
        forged("fused", enable_lora=..., peft_type="LORA"),
        Verdict("ok", "unsupported"),
    )
    as_peft = tasks(format="peft")
    yield "fused-peft", forged("fused", as_peft), FINE
    for name, value in (
        ("missing", ...), ("true", True), ("too-short", [True, False]), ("of-numbers", [1, 0, 1]),
    ):  # fmt: skip
        word = FINE if name == "of-numbers" else NO
        yield f"fused-slots-{name}", forged("fused", as_peft, enable_lora=value), word
    twice = modules(path=["h.0.qkv::0", "h.0.qkv::00"])
    yield "fused-one-slot-twice", forged("fused", together(as_peft, twice)), NO
    yield "group-of-a-plain-module", forged("linear", modules(group=[0, 1], groups=[1, 2])), NO
    yield "groups-of-two-sizes", forged("experts", modules(groups=[3, 3, 4])), NO
    yield "one-group-twice", forged("experts", modules(group=[0, 1, 1])), NO
    yield "far-too-many-groups", forged("experts", modules(groups=[1 << 20] * 3)), NO
    yield "factors-of-a-lora", forged("loha", peft_type="LORA", lora_alpha=4), NO
    for golden, tuner in (("linear", "LOHA"), ("linear", "IA3"), ("linear", "NEW"),
                          ("linear", 5), ("experts", "ADALORA"), ("loha", "ADALORA")):  # fmt: skip
        name = f"{golden}-of-{str(tuner).lower()}"
        yield name, forged(golden, peft_type=tuner, init_r=4, alpha=4), NO
    yield "kasa", forged("linear", kasa_config={"x": 1}), NO
    yield "ia3-of-an-unknown-tuner", forged("ia3", peft_type="NEW"), FINE
    yield "ia3-of-an-arrow", forged("ia3", peft_type="LORA, Arrow"), FINE
    for name, value, word in (
        ("without-ranks", None, NO), ("of-a-small-rank", [2, 0.5], NO),
        ("cut", [4, 0.5, [1, 2, 0.5]], FINE), ("cut-too-far", [4, 0.5, [1, 1, 0.5]], NO),
    ):  # fmt: skip
        yield f"adalora-{name}", forged("adalora", tasks(ranks=value)), word
    for name, value, word in (
        ("without-ranks", None, NO), ("of-a-small-rank", [2, 2.0], NO),
        ("of-scale-0", [3, 0], FINE), ("of-two-ranks", [3, 2.0, [1, 4, 2.0]], FINE),
    ):  # fmt: skip
        yield f"loha-{name}", forged("loha", tasks(ranks=value)), word
    key = [[0, "A", "odd"]]
    yield "adalora-of-an-odd-name", forged("adalora", tasks(keys=key)), NO
    yield "linear-of-an-odd-name", forged("linear", tasks(keys=key)), FINE
    same = tasks(keys=[[0, "B", f"{PREFIX}h.0.v.lora_B.weight"]])
    yield "two-pairs-of-one-name", forged("linear", same), NO


def _files() -> Iterator[Case]:
    for name in ("--all", "-o", "--", "-", "a b", "it's", "\u4e2d"):
        yield f"task-called-{name.encode().hex()}", forged("linear", tasks(name=name)), FINE
    for name in ("", ".", "a/b", " a", "a\u200b", "x" * 201):
        yield (
            f"no-task-called-{name.encode().hex()[:8]}",
            forged("linear", tasks(name=name)),
            damaged(9),
        )
    yield "sound", forged("linear"), FINE
    yield "cut", forged("linear", header=lambda data: data[:-1]), damaged(1)
    yield "bytes-behind", forged("linear", header=lambda data: data + b"x"), damaged(1)
    flipped = Verdict("checksum", "checksum", "R4")
    yield "flipped", forged("linear", header=lambda x: x[:-1] + bytes([x[-1] ^ 1])), flipped
    version = Verdict("version", None, "R2")
    yield "of-version-3", forged("linear", about={"format_version": "3"}), version
    yield "of-version-1", forged("linear", about={"format_version": "1"}), version
    yield "of-version-0", forged("linear", about={"format_version": "0"}), damaged(2)
    yield "of-another-format", forged("linear", about={"format": "other"}), damaged(2)
    yield "with-more-metadata", forged("linear", about={"more": "x"}), damaged(5)
    yield "with-another-key", forged("linear", more("more")), damaged(8)
    for table in ("modules", "tasks", "tensors"):
        change = more("more", table)
        yield f"with-another-column-of-{table}", forged("coded", change), damaged(8)
    yield "with-another-column-of-a-blob", forged("bias", more("more", "blobs")), damaged(8)
    every = together(more("_more"), *(more("_more", x) for x in ("modules", "tasks", "tensors")))
    yield "with-optional-keys", forged("coded", every, about={"_more": "x"}), FINE
    yield "with-an-optional-column-of-a-blob", forged("bias", more("_more", "blobs")), FINE

    def broken(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        data = payload["task/0"]
        payload["task/0"] = data[:-1] + bytes([data[-1] ^ 1])

    yield "of-another-chunk", forged("linear", broken), Verdict("damaged", "damaged", "R22")

    def unused(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        payload["task/1"] = payload["task/0"]

    yield "stream-without-a-task", forged("linear", unused), damaged(3)
