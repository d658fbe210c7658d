"""Make weight files with unexpected tensors, and containers with false headers."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.mutate import join, split

SIZES = {"F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "BOOL": 1, "F16": 2, "BF16": 2, "I16": 2, "F32": 4,
         "I32": 4, "F64": 8, "I64": 8, "C64": 8, "F4": 1, "U16": 2}  # fmt: skip
SHAPES: tuple[list[int], ...] = (
    [0], [], [1], [0, 4], [4, 0], [2**40, 0], [10**4000, 0], [1] * 70, [16, 4, 0], [2, 3, 1, 1],
)  # fmt: skip
MORE_NAMES = (
    "extra.weight", "lora_unet_x.alpha", "model.layers.0.self_attn.q_proj.m", "x.dora_scale", "",
    "base_model.model.lm_head.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
    "base_model.model.model.embed_tokens.lora_embedding_A", "unet.mid.lora_magnitude_vector",
    "lora_unet_down_attn1_to_q.alpha", "lora_unet_down_attn1_to_q.dora_scale", "x" * 5000, "a\nb",
    "unet.down_blocks.0.attn1.to_q.lora_B.bias", "\x1b[2J", "lora_te_x.lora_mid.weight", "..::7",
    "model.layers.0.self_attn.q_proj.lora_B.bias", "h.1.mlp.fc.bias", "text_encoder.x.alpha",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
)  # fmt: skip


@dataclass
class Tensor:
    """A tensor of a safetensors file, which need not make sense."""

    dtype: str
    shape: list[int]
    data: bytes


Tensors = dict[str, Tensor]


def unpack(data: bytes) -> tuple[Tensors, Any]:
    """Return the tensors and the metadata of a safetensors file."""
    header, body = split(data)
    about = header.pop("__metadata__", None)
    return {
        name: Tensor(x["dtype"], x["shape"], body[slice(*x["data_offsets"])])
        for name, x in header.items()
    }, about


def pack(tensors: Tensors, about: Any = None) -> bytes:
    """Return a safetensors file of tensors and metadata; None for no metadata."""
    header: dict[str, Any] = {} if about is None else {"__metadata__": about}
    position = 0
    for name, x in tensors.items():
        end = position + len(x.data)
        header[name] = {"dtype": x.dtype, "shape": x.shape, "data_offsets": [position, end]}
        position = end
    return join(header, b"".join(x.data for x in tensors.values()))


def made_of(shape: list[int], dtype: str, rng: random.Random) -> Tensor:
    """Return a tensor of that shape and dtype; its bytes are random or alike, or left out."""
    count = SIZES[dtype]
    for size in shape:
        count *= size
    kinds = (rng.randbytes(count), bytes(count), b"\xff" * count) if count < 10**7 else (b"",)
    return Tensor(dtype, shape, rng.choice(kinds))


def other_dtype(tensors: Tensors, rng: random.Random) -> None:
    """Put another dtype over the same shape, for one tensor or for all."""
    dtype = rng.choice(list(SIZES))
    for name in list(tensors) if rng.random() < 0.5 else [rng.choice(list(tensors))]:
        x = tensors[name]
        size = len(x.data) // SIZES[x.dtype] * SIZES[dtype]
        tensors[name] = Tensor(dtype, x.shape, (x.data * 8)[:size])


def special_numbers(tensors: Tensors, rng: random.Random) -> None:
    """Put NaN, infinities, zeros or the largest numbers into a tensor."""
    x = tensors[rng.choice(list(tensors))]
    code = {"F16": "<f2", "F32": "<f4"}.get(x.dtype)
    if code and x.data:
        values = np.frombuffer(x.data, code).copy()
        value = rng.choice([np.nan, np.inf, -np.inf, 0.0, np.finfo(code).max, 1e-40])
        values[rng.randrange(len(values)) if rng.random() < 0.6 else slice(None)] = value
        x.data = values.tobytes()


def more_tensors(tensors: Tensors, rng: random.Random) -> None:
    """Add tensors that no module needs."""
    stems = [name.rpartition(".")[0].removesuffix(".lora_B") for name in tensors]
    for _ in range(rng.choice([1, 1, 3])):
        name = rng.choice(MORE_NAMES)
        if rng.random() < 0.4:
            ends = (".alpha", ".bias", ".lora_B.bias", ".m", ".dora_scale", ".x.weight", ".diff_b")
            name = rng.choice(stems) + rng.choice(ends)
        shape = rng.choice([[24], [12], [7, 9], [1], [], [3, 1], [1, 16], [0]])
        tensors[name] = made_of(shape, rng.choice(["F16", "F32", "I64", "F8_E4M3", "BOOL"]), rng)


def other_shape(tensors: Tensors, rng: random.Random) -> None:
    """Give one tensor another shape, or make all wide tensors wider."""
    name = rng.choice(list(tensors))
    x = tensors[name]
    kind = rng.randrange(5)
    if kind == 0:
        x.shape = rng.choice(SHAPES)
        x.data = x.data[: 0 if 0 in x.shape else len(x.data)]
    elif kind == 1:
        x.shape = x.shape[::-1]
    elif kind == 2:
        x.shape = [*x.shape, *rng.choice([[1], [1, 1], [0], [1, 0]])]
        x.data = b"" if 0 in x.shape else x.data
    elif kind == 3:
        tensors[name] = made_of([rng.choice([1, 2, 5, 40]) for _ in range(2)], x.dtype, rng)
    else:  # all of one path grow alike, far beyond the others
        wide = rng.choice([3000, 60_000])
        for other in tensors.values():
            if len(other.shape) == 2 and other.shape[1] > 8:
                other.shape = [other.shape[0], wide]
                other.data = bytes(SIZES[other.dtype] * other.shape[0] * wide)


def rename(tensors: Tensors, rng: random.Random) -> None:
    """Rename a tensor, or drop it."""
    name = rng.choice(list(tensors))
    x = tensors.pop(name)
    swaps = (
        (".weight", ".default.weight"),
        ("layers.0", "layers.1"),
        ("lora_A", "lora_B"),
        ("q", "é"),
        ("self_attn", "base_layer.self_attn"),
        (".lora", "::1.lora"),
        ("model.", ""),
        (".", "_"),
    )
    if rng.random() < 0.5:
        old, new = rng.choice(swaps)
        tensors[name.replace(old, new, 1)] = x
    elif rng.random() < 0.5:
        tensors[rng.choice(MORE_NAMES)] = x


def other_metadata(about: Any, rng: random.Random) -> Any:
    """Return other metadata."""
    from benchmarks.hostile.configs import odd_value, text_of

    settings = text_of({"unet.r": odd_value(rng), "unet.lora_alpha": 4, "text_encoder.r": 4})
    odd = {
        "lora_adapter_metadata": settings.decode(),
        "ss_sd_model_name": rng.choice(["x", "\ud800"]),
    }
    return rng.choice([None, {}, {"a": 1}, [], {**(about or {}), **odd}])


CHANGES: tuple[Callable[[Tensors, random.Random], None], ...] = (
    other_dtype, special_numbers, more_tensors, other_shape, rename, more_tensors, other_dtype,
)  # fmt: skip


def damage_tensors(data: bytes, rng: random.Random) -> bytes:
    """Return a sound container of other tensors."""
    tensors, about = unpack(data)
    for _ in range(rng.choice([1, 1, 2])):
        if tensors:
            rng.choice(CHANGES)(tensors, rng)
    if rng.random() < 0.08:
        about = other_metadata(about, rng)
    return pack(tensors, about)


# --- torch and npz ----------------------------------------------------------------------------


class _Call:
    """Pickles as a call of a function that a weights-only unpickler permits."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def write_torch(source: Path, target: Path, rng: random.Random) -> str:
    """Write a torch file of ``source``'s tensors, changed or claiming what is not there."""
    import torch

    state = torch.load(source, weights_only=True)
    name = rng.choice(list(state))
    old = rng.random() < 0.4
    kind = rng.choice(["meta", "sparse", "view", "bytes", "dtype", "numbers", "nested", "bomb",
                       "zip", "plain", "more", "cut", "strided"])  # fmt: skip
    if kind == "meta":
        state[name] = torch.empty(4, 32, device="meta")
    elif kind == "sparse":
        state[name] = torch.eye(4).to_sparse()
    elif kind == "view":
        state[name] = torch.zeros(1).expand(rng.choice([4, 10**9]), 32)
    elif kind == "dtype":
        kinds = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64, torch.int8)
        state = {k: v.to(rng.choice(kinds)) for k, v in state.items()}
    elif kind == "numbers":
        state[name] = rng.choice([3, None, "x", [1], 10**400, {1: 2}])
    elif kind == "nested":
        state = {"state_dict": state, "step": 3}
    elif kind == "more":
        state |= {rng.choice(MORE_NAMES): torch.ones(rng.choice([0, 3, 24]))}
    elif kind == "strided":
        state = {k: v.t().contiguous().t() for k, v in state.items()}
    if kind in ("bytes", "bomb"):
        size = rng.choice([10**6, 2 * 10**9])
        call = _Call(bytearray, size) if kind == "bytes" else _Call(set, [list(range(10))] * 3)
        target.write_bytes(pickle.dumps(call, 2))
        if rng.random() < 0.5:
            _as_archive(target, target.read_bytes(), rng)
        return f"torch {kind}"
    torch.save(state, target, _use_new_zipfile_serialization=not old)
    data = target.read_bytes()
    if kind == "cut":
        target.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "zip" and not old:
        target.write_bytes(damage_archive(data, rng))
    elif kind == "zip":  # the old container states the size of each storage in numbers
        sizes = [struct.pack("<B", 128), struct.pack("<B", 96)]
        target.write_bytes(data.replace(b"K" + rng.choice(sizes), b"J" + struct.pack("<i", 2**30)))
    return f"torch {kind}{' old' if old else ''}"


def _as_archive(target: Path, content: bytes, rng: random.Random) -> None:
    packing = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(target, "w", packing) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", bytes(rng.choice([0, 10, 10**8])))


def damage_archive(data: bytes, rng: random.Random) -> bytes:
    """Return a zip whose members or directory are not what they say."""
    kind = rng.randrange(5)
    if kind == 0:  # several disks
        at = data.rfind(b"PK\5\6")
        disks = struct.pack("<HH", rng.choice([1, 3]), rng.choice([0, 1, 7]))
        return data[: at + 4] + disks + data[at + 8 :] if at >= 0 else data
    if kind == 1:  # several disks of 64 bits
        at = data.rfind(b"PK\5\6")
        mark = b"PK\6\7" + struct.pack("<LQL", rng.choice([0, 1]), max(at - 56, 0), 2)
        return data[:at] + mark + data[at:]
    if kind == 2:  # packed anew, and other sizes
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", 8) as new:
            for info in old.infolist():
                content = old.read(info)
                new.writestr(info.filename, content + bytes(rng.choice([0, 0, 10**7])))
        return made.getvalue()
    at = data.rfind(b"PK\1\2")
    if at < 0:
        return data
    place = at + rng.choice([8, 10, 16, 20, 24, 28, 30, 42])
    value = rng.choice([0, 1, 2**31, 2**32 - 1])
    return data[:place] + struct.pack("<L", value) + data[place + 4 :]


def write_npz(source: Path, target: Path, rng: random.Random) -> str:
    """Write an npz file of ``source``'s arrays, changed or claiming what is not there."""
    with np.load(source) as found:
        arrays = dict(found)
    name = rng.choice(list(arrays))
    kind = rng.choice(["zeros", "dtype", "fortran", "zip", "numbers", "more", "header", "cut"])
    save: Any = np.savez
    if kind == "zeros":
        size = rng.choice([1000, 10**6, 10**8])
        arrays = {
            k: v if rng.random() < 0.5 else np.zeros((4, size // 4), "f2")
            for k, v in arrays.items()
        }
        save = np.savez_compressed
    elif kind == "dtype":
        arrays[name] = arrays[name].astype(rng.choice([">f4", "c8", "f8", "i8", "?", "U3", "V8"]))
    elif kind == "fortran":
        arrays = {k: np.asfortranarray(v) for k, v in arrays.items()}
    elif kind == "numbers":
        arrays[name] = np.full_like(arrays[name], rng.choice([np.nan, np.inf, 0, 6e4]))
    elif kind == "more":
        arrays[
            rng.choice(["x", *(x for x in MORE_NAMES if x and "\0" not in x and len(x) < 99)])
        ] = np.ones(rng.choice([0, 1, 12, 16]), "f4")
    with target.open("wb") as stream:
        save(stream, **arrays)
    data = target.read_bytes()
    if kind == "zip":
        target.write_bytes(damage_archive(data, rng))
    elif kind == "cut":
        target.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "header":
        shape = rng.choice([b"(9999999999, 4)", b"(0, 4)", b"()", b"(-1, 4)", b"(4,)" + b" " * 50])
        target.write_bytes(data.replace(b"(16, 4)", shape[:7], 1))
    return f"npz {kind}"
