"""No bundle makes its reader take what its bytes do not warrant; real ones are far below."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge, open_bundle, verify_bundle
from hydraopt.adapters import RawTensor, read_adapter
from hydraopt.bundle import Manifest, ModuleEntry, TaskEntry, pack_bundle, pack_carried
from hydraopt.bundle.encoding import deflate
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.codec import (
    MOST_DRAWN,
    ChunkWriter,
    Drawn,
    KnownStart,
    PartsRecord,
    Way,
    most_numbers,
    write_record,
)
from hydraopt.codec.sides import Side, quantise_side
from hydraopt.codec.stream import quantise_block
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError, ExportError
from hydraopt.inspect import inspect_bundle
from tests.bundle.bundles import Parts, tiny
from tests.bundle.lies import pack, promise
from tests.limited import run_limited
from tests.marks import slow
from tests.raising import raises

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "adapters"
MEGABYTES = 128
SECONDS = 15


def with_carried() -> Parts:
    extras = {"head.weight": RawTensor.from_numpy("head.weight", np.arange(8, dtype=np.float32))}
    carried = pack_carried({"de": extras, "en": extras})
    return tiny(("de", "en"), blobs=carried.blobs, data=carried.data, carried=(0,))


def use(path: Path) -> None:
    """Verify, inspect and export, as the commands do."""
    report = verify_bundle(path)
    if not report.ok:
        raise BundleFormatError(report.problems[0])
    inspect_bundle(path)
    bundle = open_bundle(path)
    for i, name in enumerate(list(bundle)[:2]):
        export_peft(bundle[name], path.with_name(f"out{i}"), overwrite=True)


def many_tasks(value: Any) -> dict[str, Any]:
    tasks = value["tasks"]
    value["modules"] = {"path": [f"m{i}" for i in range(3000)], "m": {"=": 9}, "n": {"=": 9}}
    tasks["name"] = [f"t{i:06}" for i in range(60_000)]
    tasks.update({k: {"=": x[0]} for k, x in tasks.items() if k != "name" and type(x) is list})
    return {"manifest": value}


def wide_modules(value: Any) -> dict[str, Any]:
    value["modules"]["m"] = value["modules"]["n"] = {"=": 1 << 24}
    records, numbers = len(value["modules"]["path"]), (1 << 16) * (1 << 24)
    return {"manifest": value, "shared": promise(1 << 16, records, min(numbers, (1 << 32) - 1))}


def understated(value: Any) -> dict[str, Any]:
    """The same, with a table that says nothing of it."""
    return wide_modules(value) | {"shared": promise(1 << 16, len(value["modules"]["path"]), 9)}


def big_text(value: Any) -> dict[str, Any]:
    text = b'{"recipe":{"x":[' + b"[]," * (1 << 24) + b"0]}}"
    return {"packed": deflate(text)}


def many_copies(value: Any) -> dict[str, Any]:
    size, count = 1 << 24, 50
    keys = [f"h{i}" for i in range(count)]
    of = [None, *([0] * (count - 1))]
    value["blobs"] = [{"key": keys, "dtype": {"=": "U8"}, "shape": {"=": [size]}, "of": of}]
    return {"manifest": value, "blobs": [deflate(bytes(size))]}


def many_configs(value: Any) -> dict[str, Any]:
    first = {f"k{i}": i for i in range(20_000)}
    value["configs"] = [first, *({"set": {"x": i}} for i in range(3000))]
    return {"manifest": value}


def many_digits(value: Any) -> dict[str, Any]:
    """Of whole numbers of thousands of digits, which each config would hold anew."""
    first = {**value["configs"][0], "x": [10**3999] * 2}
    value["configs"] = [first, *({"set": {"y": i}} for i in range(3000))]
    return {"manifest": value}


def coded(
    value: Any, shape: list[int], count: int, *record: int, numbers: int, **more: Any
) -> dict[str, Any]:
    """``count`` tensors in every task, each with a record of these integers that stands for so many
    numbers, and no modules."""
    names = value["tasks"]["name"]
    value["modules"] = {"path": []}
    value["tensors"] = {"key": [f"x{i}" for i in range(count)], "shape": {"=": shape}, **more}
    errors = base64.b64encode(bytes(count)).decode().rstrip("=")
    value["tasks"] |= {"tensors": {"=": [0, count]}, "tensor_errors": {"=": errors}}
    value["tasks"] |= {"modules": {"=": "all"}, "errors": {"=": ""}}
    writer = ChunkWriter()
    for _ in range(count):
        kinds = Kind.COUNT, Kind.EXPONENT, Kind.COUNT, Kind.COUNT
        for kind, number in zip(kinds, record, strict=False):
            writer.integer(kind, number)
        writer.end_record(min(numbers, (1 << 31) - 1))
    streams = [writer.finish()] * len(names)
    return {"manifest": value, "streams": streams, "shared": b""}


def large_tensor(value: Any) -> dict[str, Any]:
    return coded(value, [1 << 24, 1 << 13], 1, 0, numbers=1 << 37)


def many_rows(value: Any) -> dict[str, Any]:
    return coded(value, [1 << 29], 1, 9, 0, 0, 1 << 28, numbers=1 << 28, base={"=": "0" * 16})


def large_starts(value: Any) -> dict[str, Any]:
    value["tasks"]["start"] = {"=": [42, MOST_DRAWN]}
    return {"manifest": value}


CASES = {
    "a large tensor": (large_tensor, "more numbers than the bytes of the file can hold"),
    "rows of a base's tensor": (many_rows, "more numbers than the bytes of the file can hold"),
    "large starts": (large_starts, "too many numbers of starts"),
    "many tasks": (many_tasks, "too many entries"),
    "understated numbers": (understated, "more than the 9 numbers that its table states"),
    "wide modules": (wide_modules, "more numbers than the bytes of the file can hold"),
    "a manifest of brackets": (big_text, "manifest cannot be unpacked"),
    "copies of a blob": (many_copies, "too many bytes of carried tensors"),
    "configs over configs": (many_configs, "too many bytes of configs"),
    "digits over configs": (many_digits, "too many bytes of configs"),
}


# It takes seconds; "configs over configs" is refused for the same reason.
LONG = {"digits over configs"}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow if x in LONG else ()) for x in CASES]
)
def test_refused_within_memory_and_time(name: str, tmp_path: Path) -> None:
    forge, words = CASES[name]
    parts = with_carried()
    sound, path = tmp_path / "sound", tmp_path / "forged"
    sound.write_bytes(pack(parts))
    value = json.loads(json.dumps(parts.manifest.to_json()))
    path.write_bytes(pack(parts, **forge(value)))
    assert path.stat().st_size < 4 << 20
    room = MEGABYTES + (4096 * path.stat().st_size >> 20)
    said = run_limited(use, sound, path, room, SECONDS)
    assert said.startswith("BundleFormatError"), said
    assert words in said
    assert str(path) in said
    assert "Fetch the bundle again" in said


@pytest.mark.parametrize(
    ("rank", "targets", "word"),
    [
        slow(1 << 30, "q", "the adapter would be far larger"),
        (1 << 22, "q", "the adapter would be far larger"),
        (8, "(a|aa)+[0-9]", "done"),
    ],
)
def test_ranks_and_targets_cannot_make_an_export_large_or_slow(
    rank: int, targets: str, word: str, tmp_path: Path
) -> None:
    parts = with_carried()
    sound, path = tmp_path / "sound", tmp_path / "forged"
    sound.write_bytes(pack(parts))
    value = json.loads(json.dumps(parts.manifest.to_json()))
    value["tasks"]["ranks"] = {"=": [rank, 1.0]}
    value["configs"][0]["target_modules"] = targets
    path.write_bytes(pack(parts, manifest=value))
    said = run_limited(use, sound, path, MEGABYTES, SECONDS)
    assert word in said


@pytest.mark.slow
def test_many_coded_tensors_take_no_longer_than_their_bytes(tmp_path: Path) -> None:
    parts = with_carried()
    sound, path = tmp_path / "sound", tmp_path / "forged"
    sound.write_bytes(pack(parts))
    value = json.loads(json.dumps(parts.manifest.to_json()))
    path.write_bytes(pack(parts, **coded(value, [1], 20_000, 0, numbers=1)))
    # Reading, listing and restoring it all end within the limits.
    assert "done" in run_limited(use, sound, path, MEGABYTES, SECONDS)


@pytest.mark.slow
def test_places_far_apart_take_no_longer_than_their_bytes(tmp_path: Path) -> None:
    """Each initial A lies as far behind a state that a reader may keep as it can."""
    start, count = KnownStart(42, 1 << 24), 5000
    modules = tuple(ModuleEntry(f"m{i}", "linear", 1, 1) for i in range(count))
    one, left = quantise_block(np.ones((1, 1))), quantise_side(np.ones((1, 1)), Way.EXPLICIT, None)
    writer = ChunkWriter()
    for i in range(count):
        drawn = Drawn(start, (1 << 24) - 1 - i % 2 * (1 << 23), 1)
        right = Side(Way.STARTED, one, None, np.ones((1, 1)), drawn)
        record = PartsRecord(left, right, np.array([0]))
        write_record(writer, record, True)
        writer.end_record(record.numbers)
    indices = tuple(range(count))
    task = TaskEntry("a", 0, 0, modules=indices, errors=(0.0,) * count, start=start)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "all-linear"}
    sound, path = tmp_path / "sound", tmp_path / "far"
    sound.write_bytes(pack(with_carried()))
    manifest = Manifest(modules, (task,), configs=(config,))
    pack_bundle(manifest, b"", [writer.finish()], []).write(path)
    assert "done" in run_limited(use, sound, path, MEGABYTES, SECONDS)


def test_tasks_of_one_stream_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydraopt.bundle.limits import Allowance

    parts = tiny(("de", "en", "fr"))
    tasks = tuple(
        TaskEntry(f"{x.name}{i}", 0, x.content, modules=x.modules, errors=x.errors, error=x.error)
        for x in parts.manifest.tasks
        for i in range(5)
    )
    manifest = Manifest(
        parts.manifest.modules, tasks, configs=parts.manifest.configs, base_model="org/tiny"
    )
    pack_bundle(manifest, parts.shared, parts.streams, []).write(tmp_path / "b")
    opened: list[str] = []
    real = Allowance.open

    def spied(self: Allowance, name: str, data: bytes, records: int) -> Any:
        opened.append(name)
        return real(self, name, data, records)

    monkeypatch.setattr(Allowance, "open", spied)
    assert verify_bundle(tmp_path / "b").ok
    assert len(inspect_bundle(tmp_path / "b").tasks) == 15
    streams = parts.manifest.streams
    assert opened.count("task/0") == 2  # one for each command
    assert len([x for x in opened if x.startswith("task/")]) == 2 * streams


@pytest.mark.slow
def test_the_examples_at_one_percent_are_far_below(tmp_path: Path) -> None:
    merge(str(EXAMPLES / "dates-*"), tmp_path / "b", size="1%", workers=1)
    bundle = open_bundle(tmp_path / "b")
    sizes = bundle.tensor_bytes
    size = sizes["shared"] + sum(v for k, v in sizes.items() if k.startswith("task/"))
    numbers = sum(x.vectors.size for pair in bundle.read_bases() for x in pair if x is not None)
    for task in bundle.values():
        numbers += sum(x.B.size + x.A.size for x in task.factors().values())
    assert 12 * numbers < most_numbers(size) - most_numbers(0)
    assert verify_bundle(tmp_path / "b").ok


def test_a_writer_does_not_write_what_no_reader_takes(tmp_path: Path) -> None:
    carried = pack_carried(
        {"de": {f"x{i}": RawTensor.from_numpy("x", np.zeros(1 << 24, np.uint8)) for i in range(3)}}
    )
    parts = tiny(("de",), blobs=carried.blobs, data=carried.data, carried=(0,))
    with raises(BundleFormatError, got=50331648, expected=20955136):
        parts.write(tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"path": "m0"}, {"adapter": "a", "file": "forged", "got": "h.q"}),
        ({"group": 1, "groups": 2}, {"adapter": "a", "file": "forged", "got": "h.q"}),
    ],
)
def test_a_lossless_task_has_the_modules_that_it_lists(
    make_adapter: Any, tmp_path: Path, change: dict[str, Any], facts: dict[str, object]
) -> None:
    pair = (np.ones((4, 2), np.float32), np.ones((2, 8), np.float32))
    merge([make_adapter(tmp_path / "a", {"h.q": pair})], tmp_path / "good", lossless=True)
    good = open_bundle(tmp_path / "good")
    entry = dataclasses.replace(good.manifest.modules[0], **change)
    forged = dataclasses.replace(good.manifest, modules=(entry,))
    pack_bundle(forged, b"", (), [good.read("carried/0")]).write(tmp_path / "forged")
    task = open_bundle(tmp_path / "forged")["a"]
    with raises(ExportError, **facts):
        task.factors()
    with pytest.raises(ExportError):
        export_peft(task, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    # Its bytes are what they were, and nothing has to be known of them to give them back.
    assert verify_bundle(tmp_path / "forged").ok
    export_peft(task, tmp_path / "out")
    for name, tensor in read_adapter(tmp_path / "out").tensors.items():
        assert tensor.raw() == good["a"].tensors[name].raw()
