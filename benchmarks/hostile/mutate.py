"""Damage bytes and JSON; every change follows from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

HUGE = [-1, 0, 1, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**53, 2**63, 2**64, 10**30, 1.5, None, "x"]


def split(data: bytes) -> tuple[Any, bytes]:
    """Return the header and the body of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, body: bytes) -> bytes:
    """Return a safetensors file of this header and body."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + body


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Return the data with 1 to 64 bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a flip in the header, where a flip anywhere seldom lands."""
    changed = bytearray(data)
    length = int.from_bytes(data[:8], "little")
    changed[rng.randrange(min(8 + length, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Return the data cut off anywhere, or within the first 64 bytes."""
    return data[: rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 64))])]


def extend(data: bytes, rng: random.Random) -> bytes:
    """Return the data with up to 1000 random bytes more."""
    return data + rng.randbytes(rng.choice([1, 7, 8, 1000]))


def swap_ranges(data: bytes, rng: random.Random) -> bytes:
    """Return the data with two ranges exchanged, or one reversed where they overlap."""
    size = rng.randrange(1, max(2, min(200, len(data) // 2)))
    a, b = sorted(rng.randrange(len(data) - size + 1) for _ in range(2))
    if b < a + size:
        return data[:a] + data[a : a + size][::-1] + data[a + size :]
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def blank(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a range of bytes set to 0 or 255."""
    a = rng.randrange(len(data))
    b = min(len(data), a + rng.choice([1, 16, 512]))
    return data[:a] + bytes([rng.choice([0, 255])]) * (b - a) + data[b:]


def lie_about_length(data: bytes, rng: random.Random) -> bytes:
    """Return the data with another length of the header stated."""
    length = rng.choice([0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1, len(data), len(data) - 8])
    return length.to_bytes(8, "little") + data[8:]


def lie_in_header(data: bytes, rng: random.Random) -> bytes:
    """Return the data with another number, type or name somewhere in the header."""
    header, body = split(data)
    return join(damage_json(header, rng), body)


def damage_json(value: Any, rng: random.Random) -> Any:
    """Return the value with one thing in it changed, at a random depth."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        if rng.random() < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.05:
            return value | {rng.choice(["x", "__metadata__", "", "dtype"]): value[key]}
        return value | {key: damage_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.93:
        i = rng.randrange(len(value))
        chance = rng.random()
        if chance < 0.06:
            return value[:i] + value[i + 1 :]
        if chance < 0.1:
            return [*value, value[i]]
        return [*value[:i], damage_json(value[i], rng), *value[i + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        inner = value[: rng.randrange(len(value) + 1)]
        return rng.choice([inner, value + value, value + "\x00", "\ud800", "F64", "../x", "9" * 20])
    if isinstance(value, int) and rng.random() < 0.4:
        return value + rng.choice([-1, 1, 8])
    return rng.choice([*HUGE, [], {}, [1] * 100, True, 1e308, "a" * 5000])


ANY: dict[str, Mutation] = {
    f.__name__: f
    for f in (
        flip_bits,
        flip_early,
        truncate,
        extend,
        swap_ranges,
        blank,
        lie_about_length,
        lie_in_header,
    )
}
