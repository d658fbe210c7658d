"""Bundles written and read: the same content out, the same bytes for the same content."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from hydraopt.adapters import RawTensor
from hydraopt.bundle import (
    Manifest,
    ModuleEntry,
    TaskEntry,
    open_bundle,
    pack_bundle,
    pack_carried,
    size_apart,
)
from hydraopt.bundle.encoding import code_of, error_of, pack_ranges, unpack_ranges
from hydraopt.codec import Aside, Place
from hydraopt.errors import BundleFormatError, TaskNotFoundError
from tests.bundle.bundles import Parts, tiny
from tests.raising import raises


def same(parts: Parts, path: Path) -> None:
    bundle = open_bundle(path)
    assert list(bundle) == sorted(parts.expected)
    for name, expected in parts.expected.items():
        found = bundle[name].factors()
        assert list(found) == list(expected)
        for module, factors in expected.items():
            np.testing.assert_array_equal(found[module].B, factors.B)
            np.testing.assert_array_equal(found[module].A, factors.A)


@pytest.mark.parametrize("shared", [True, False])
def test_round_trip(tmp_path: Path, shared: bool) -> None:
    parts = tiny(shared=shared)
    path = tmp_path / "b.hydra.safetensors"
    size = parts.write(path)
    assert size == path.stat().st_size == pack_bundle(*parts.args).size
    same(parts, path)
    bundle = open_bundle(path)
    assert bundle.manifest == parts.manifest
    task = bundle["en"]
    forms = {"shared-input", "two-sided", "predicted"} if shared else {"private"}
    assert set(task.forms().values()) == forms
    assert sum(task.coded_bytes().values()) == len(parts.streams[1])
    assert task.base_model == "org/tiny"
    assert task.error == 0.2
    assert list(task.module_errors) == [x.path for x in parts.manifest.modules]
    assert task.config["lora_alpha"] == 8
    assert task.original is None


def test_safetensors_reads_it(tmp_path: Path) -> None:
    parts = tiny()
    parts.write(tmp_path / "b")
    with safe_open(tmp_path / "b", "np") as file:
        assert file.metadata()["tasks"] == '["de","en","fr"]'
        assert set(file.keys()) == {"manifest", "shared", "task/0", "task/1", "task/2"}
        assert file.get_tensor("shared").tobytes() == parts.shared


def test_order_does_not_matter(tmp_path: Path) -> None:
    parts = tiny(("de", "en", "fr", "pl"))
    parts.write(tmp_path / "a")
    order = [2, 0, 3, 1]
    other = {"r": 1}
    # The same tasks in another order, with configs and streams numbered another way.
    tasks = tuple(
        replace(parts.manifest.tasks[i], content=at, config=1) for at, i in enumerate(order)
    )
    configs = (other, parts.manifest.configs[0])
    manifest = replace(parts.manifest, tasks=tasks, configs=configs)
    streams = [parts.streams[i] for i in order]
    pack_bundle(manifest, parts.shared, streams, []).write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_carried_is_read_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fleet that is kept bit by bit it is more than memory holds."""
    names = enumerate(("de", "en", "fr"))
    tensors = {x: {"a": RawTensor.from_numpy("a", np.arange(i, i + 99))} for i, x in names}
    carried = pack_carried(tensors)
    parts = tiny(blobs=carried.blobs)
    tasks = (replace(x, carried=carried.tasks[x.name]) for x in parts.manifest.tasks)
    manifest = replace(parts.manifest, tasks=tuple(tasks))
    reads: list[Place] = []
    read = Aside.read

    def counted(self: Aside, place: Place) -> bytes:
        reads.append(place)
        return read(self, place)

    monkeypatch.setattr(Aside, "read", counted)
    about = manifest, parts.shared, parts.streams, carried.data
    size = pack_bundle(*about).size
    assert size_apart("x.core.safetensors", *about) > size
    assert reads == []
    assert sum(map(len, pack_bundle(*about).pieces("x" * 14))) > 0
    assert list(Counter(reads).values()) == [2, 2, 2]


def test_the_numbers_of_blobs_do_not_matter(tmp_path: Path) -> None:
    def raw(key: str) -> RawTensor:
        return RawTensor.from_numpy(key, np.frombuffer(key.encode() * 4, np.uint8).copy())

    one, two = {"a": raw("a"), "b": raw("b")}, {"a": raw("a")}
    carried = pack_carried({"de": one, "en": one, "fr": two})
    assert carried.tasks["de"] == (0, 1)
    parts = tiny(blobs=carried.blobs, data=carried.data)

    def written(name: str, order: tuple[int, int]) -> bytes:
        new = {old: at for at, old in enumerate(order)}
        tasks = tuple(
            replace(x, carried=tuple(sorted(new[i] for i in carried.tasks[x.name])))
            for x in parts.manifest.tasks
        )
        blobs = tuple(carried.blobs[i] for i in order)
        manifest = replace(parts.manifest, tasks=tasks, blobs=blobs)
        data = [carried.data[i] for i in order]
        pack_bundle(manifest, parts.shared, parts.streams, data).write(tmp_path / name)
        return (tmp_path / name).read_bytes()

    assert written("x", (0, 1)) == written("y", (1, 0))
    assert list(open_bundle(tmp_path / "y")["fr"].extras) == ["a"]
    assert sorted(open_bundle(tmp_path / "y")["en"].extras) == ["a", "b"]


def test_equal_streams_and_configs_are_stored_once(tmp_path: Path) -> None:
    parts = tiny(("de", "en"))
    config = parts.manifest.configs[0]
    tasks = tuple(replace(x, config=i) for i, x in enumerate(parts.manifest.tasks))
    manifest = replace(parts.manifest, tasks=tasks, configs=(config, dict(config)))
    pack_bundle(manifest, parts.shared, [parts.streams[0]] * 2, []).write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert len(bundle.manifest.configs) == 1
    assert list(bundle.tensor_bytes) == ["manifest", "shared", "task/0"]
    for x, y in zip(bundle["de"].factors().values(), bundle["en"].factors().values(), strict=True):
        np.testing.assert_array_equal(x.B, y.B)


def test_one_task_reads_its_own_bytes_only(tmp_path: Path) -> None:
    parts = tiny()
    size = parts.write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    sizes = bundle.tensor_bytes
    opened = size - sum(sizes.values()) + sizes["manifest"]
    assert bundle.bytes_read == opened
    task = bundle["fr"]
    assert bundle.bytes_read == opened
    task.factors()
    assert bundle.bytes_read == opened + sizes["shared"] + sizes["task/2"]
    task.factors()
    bundle["de"].factors()
    assert bundle.bytes_read == opened + sizes["shared"] + sizes["task/2"] + sizes["task/0"]


def test_a_damaged_task_does_not_hurt_the_others(tmp_path: Path) -> None:
    parts = tiny()
    path = tmp_path / "b"
    parts.write(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    bundle = open_bundle(path)
    bundle["de"].factors()
    with raises(BundleFormatError, file="b"):
        bundle["fr"].factors()


def test_unknown_task_names_near_ones(tmp_path: Path) -> None:
    tiny(("dates-de", "dates-fr")).write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    with raises(TaskNotFoundError, file="b", got="'dates_de'", expected="dates-de, dates-fr"):
        bundle["dates_de"]
    assert "dates-de" in bundle
    assert bundle.get("nothing") is None


def test_eight_tasks_of_sixty_modules_fit_in_a_few_kilobytes() -> None:
    modules = tuple(
        ModuleEntry(f"model.layers.{i}.self_attn.{x}_proj", "linear", 576, 576)
        for i in range(15)
        for x in "kqvo"
    )
    rng = np.random.default_rng(0)
    tasks = tuple(
        TaskEntry(
            f"task-{i}",
            i,
            i,
            modules=tuple(range(60)),
            errors=tuple(0.2 * np.exp(0.3 * rng.standard_normal(60))),
            error=0.2,
        )
        for i in range(8)
    )
    settings = {f"setting_{i}": None for i in range(40)}
    configs = tuple({**settings, "r": 16, "lora_alpha": 32, "lora_dropout": i} for i in range(8))
    manifest = Manifest(modules, tasks, configs=configs, base_model="org/SmolLM2")
    streams = [bytes([i]) for i in range(8)]
    assert pack_bundle(manifest, b"", streams, []).size - 8 < 2500


def test_packing_and_writing_hold_one_stream_at_a_time(tmp_path: Path) -> None:
    class Lent(bytes):
        alive = most = 0

        def __init__(self, *data: object) -> None:
            Lent.alive += 1
            Lent.most = max(Lent.most, Lent.alive)

        def __del__(self) -> None:
            Lent.alive -= 1

    class Lying(list[bytes]):
        """As streams of a merge lie in a file: each is read anew when it is asked for."""

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            return Lent(super().__getitem__(index))

        def __iter__(self):  # type: ignore[no-untyped-def]
            return (self[i] for i in range(len(self)))

    parts = tiny([f"task-{i}" for i in range(6)])
    streams = Lying(parts.streams)
    packed = pack_bundle(parts.manifest, parts.shared, streams, parts.blobs)
    assert packed.write(tmp_path / "b.hydra.safetensors") == packed.size
    assert 1 <= Lent.most <= 2  # the one before goes when the next is there
    same(parts, tmp_path / "b.hydra.safetensors")


def test_a_name_is_known_without_a_search(tmp_path: Path) -> None:
    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise AssertionError("was compared with another name")

    tiny().write(tmp_path / "b.hydra.safetensors")
    assert Name("nobody") not in open_bundle(tmp_path / "b.hydra.safetensors")


def test_manifest_equals_itself_through_json() -> None:
    modules = (
        ModuleEntry("a", "linear", 4, 5),
        ModuleEntry("b::1", "linear", 4, 5, "rows", 1, 2),
        ModuleEntry("c", "conv", 4, 27, a_tail=(3, 3)),
    )
    task = TaskEntry(
        "ä b",
        0,
        0,
        "mlx",
        "org/x",
        9,
        "BF16",
        modules=(0, 2),
        errors=(0.0, 0.3),
        error=0.123456,
        keys={("a", "A"): "other.lora_A.weight"},
        notes=("as it was",),
        metadata={"k": "v"},
    )
    other = TaskEntry("other", 1, None)
    configs = ({"r": 4, "x": None, "alpha": 1.0}, {"r": 8, "x": None, "new": [1]})
    manifest = Manifest(modules, (task, other), configs=configs, recipe={"size": 5})
    value = json.loads(json.dumps(manifest.to_json()))
    assert Manifest.from_json(value) == manifest
    assert manifest.tasks[0].error == 0.1235
    assert manifest.tasks[0].errors[0] == 0


def test_error_grid() -> None:
    for code in range(256):
        assert code_of(error_of(code)) == code
    assert error_of(code_of(0.2)) == pytest.approx(0.2, rel=0.022)
    # A tiny error is not said to be none.
    assert error_of(code_of(1e-12)) > 0


def test_ranges() -> None:
    for indices in ((), (0, 1, 2), (1,), (0, 2), (0, 1, 3, 4)):
        assert unpack_ranges(pack_ranges(indices, 5), 5) == indices
    assert pack_ranges((0, 1), 2) == "all"


def test_what_does_not_fit_together_is_not_written(tmp_path: Path) -> None:
    parts = tiny()
    with raises(BundleFormatError, got="1", expected=3):
        pack_bundle(parts.manifest, parts.shared, parts.streams[:1], []).write(tmp_path / "b")
    with raises(BundleFormatError, got="'../x'"):
        replace(parts.manifest.tasks[0], name="../x")
    with pytest.raises(BundleFormatError):
        pack_bundle(
            replace(parts.manifest, recipe={"x": float("nan")}), parts.shared, parts.streams, []
        ).write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
