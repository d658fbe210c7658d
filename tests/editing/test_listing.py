"""What a collection says that it holds, and how two of them differ."""

from __future__ import annotations

from pathlib import Path

from hydraopt import merge, open_bundle
from hydraopt.inspect import difference, listing
from hydraopt.merging import add, remove, rename, replace
from tests.editing.living import bytes_of, copied

DAY = "2026-03-01"


def test_a_listing_adds_up(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], day=DAY)
    bundle, said = open_bundle(four), listing(four)
    assert said.size == bundle.size
    assert said.core_bytes == len(bundle.read("shared"))
    assert (said.price, said.norm) == tuple(bundle.recipe[x] for x in ("price", "norm"))
    rows = {row.name: row for row in said.tasks}
    assert list(rows) == list("abcde")
    assert all(rows[name].added is None for name in "abcd")
    assert rows["e"].added is not None
    assert rows["e"].added.day == DAY
    assert rows["e"].own_bytes == len(bytes_of(bundle, "e")[0])
    assert rows["e"].carried_bytes > 0
    assert rows["e"].error == bundle["e"].error


def test_a_difference_names_every_change(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    other = copied(four, tmp_path / "other")
    nothing = difference(four, other)
    assert nothing.core == "same"
    assert nothing.same == tuple("abcd")
    assert not any((nothing.added, nothing.removed, nothing.changed, nothing.renamed))
    add(other, [adapters["e"]], day=DAY)
    remove(other, ["a"])
    rename(other, "b", "x")
    replace(other, [f"d={adapters['f']}"], day=DAY)
    said = difference(four, other)
    assert said.core == "same"
    assert said.added == ("e",)
    assert said.removed == ("a",)
    assert said.renamed == {"b": "x"}
    assert said.same == ("c",)
    (changed,) = said.changed
    assert changed.name == "d"
    assert {"stream", "history"} <= set(changed.what)
    assert changed.own_bytes[0] != changed.own_bytes[1]


def test_streams_over_another_core_are_not_the_same(
    one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.hydra.safetensors"
    merge([adapters[name] for name in "abd"], other, error=0.1)
    said = difference(one_file, other)
    assert said.core == "other"
    assert said.removed == ("c",)
    assert [row.name for row in said.changed] == list("abd")
    assert said.same == ()
