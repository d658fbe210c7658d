"""A merge into a folder: a core file and task files, the same as of a split."""

from __future__ import annotations

from re import fullmatch

import pytest

from hydraopt import merge, open_bundle, shrink
from hydraopt.bundle import join, split
from hydraopt.errors import BudgetError, UsageError
from hydraopt.files import INDEX_NAME
from hydraopt.merging import Limit, Look, MergeOptions, plan
from tests.marks import slow
from tests.raising import raises


def test_a_folder_holds_what_a_split_of_the_file_holds(three, tmp_path) -> None:
    made = merge(three, f"{tmp_path}/new/", error=0.2, workers=1)
    merge(three, tmp_path / "new.hydra.safetensors", error=0.2, workers=1)
    split(tmp_path / "new.hydra.safetensors", tmp_path / "split")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "split").iterdir())
    assert len(names) == 5
    assert made.size == sum((tmp_path / "new" / name).stat().st_size for name in names)
    names.remove(INDEX_NAME)  # it has the times of the others
    for name in names:
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "split" / name).read_bytes()
    assert sorted(open_bundle(tmp_path / "new")) == ["a", "b", "c"]
    join([tmp_path / "new"], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "new.hydra.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_killed_merge_into_a_folder_leaves_nothing_for_long(three, tmp_path, monkeypatch) -> None:
    def killed(whole, target, *_: bool) -> None:
        assert fullmatch(r"\.new\.tmp-[0-9a-f]{16}", whole.parent.name)  # a name that is cleaned
        raise KeyboardInterrupt

    monkeypatch.setattr("hydraopt.bundle.splitting.split", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(three, f"{tmp_path}/new/", error=0.2, workers=1)
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_empty_is_refused_first(three, tmp_path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("before")
    for output in (f"{tmp_path}/new/", tmp_path / "new"):
        with raises(UsageError, file="new"):
            merge(three, output, size="40%", workers=1, progress=lambda *_: pytest.fail("worked"))
    with raises(UsageError, file="mine"):
        merge(three, f"{tmp_path}/new/mine/", size="40%", workers=1)
    assert (tmp_path / "new" / "mine").read_text() == "before"


def test_a_lock_that_an_ended_writer_left_is_no_file(three, tmp_path) -> None:
    for name in ("merged", "parted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tasks.lock").write_text("4711\n")
    merge(three, f"{tmp_path}/merged/", size="40%", workers=1)
    split(tmp_path / "merged", tmp_path / "parted")
    assert list(open_bundle(tmp_path / "parted")) == list(open_bundle(tmp_path / "merged"))


@pytest.mark.parametrize("size", ["40%", slow("60%")])
def test_a_size_is_that_of_all_files_of_a_folder(three, tmp_path, size) -> None:
    whole = merge(three, tmp_path / "whole.hydra.safetensors", size=size, workers=1)
    limit = int(float(size[:-1]) / 100 * whole.fp16_bytes)
    made = merge(three, f"{tmp_path}/new/", size=size, workers=1)
    there = sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    assert 0.9 * limit < there == made.size <= limit
    small = shrink(tmp_path / "new", f"{tmp_path}/small/", size=there - 500, workers=1)
    assert small.size <= there - 500
    with raises(BudgetError, got="--exact"):
        merge(three, f"{tmp_path}/none/", size=1000, workers=1)
    assert not (tmp_path / "none").exists()


def test_an_output_that_cannot_be_is_refused_before_any_work(three, tmp_path) -> None:
    def idle(*_: object) -> None:
        pytest.fail("worked")

    merge(three, tmp_path / "whole.hydra.safetensors", error=0.2, workers=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("before")
    for output in ("https://host/x.hydra.safetensors", "memory://", f"{tmp_path}/full/"):
        with pytest.raises(UsageError):
            merge(three, output, error=0.2, workers=1, progress=idle)
        with pytest.raises(UsageError):
            shrink(
                tmp_path / "whole.hydra.safetensors", output, error=0.2, workers=1, progress=idle
            )


def test_where_nothing_can_be_written_nothing_begins(three, tmp_path, monkeypatch) -> None:
    stages: list[object] = []
    with raises(UsageError, file="b"):
        merge(three, tmp_path / "no" / "such" / "b", progress=lambda *x: stages.append(x))
    monkeypatch.setattr("os.access", lambda *_: False)
    with raises(UsageError, file="out"):
        merge(three, tmp_path / "out", progress=lambda *x: stages.append(x))
    assert not [x for x in stages if "reading" not in x]


def test_a_size_that_holds_every_bit_gives_it(three, tmp_path) -> None:
    """More bytes for a loss would be for nothing."""
    whole = merge(three, tmp_path / "whole", lossless=True)
    made = merge(three, tmp_path / "made", size=whole.size, workers=1)
    assert (tmp_path / "made").read_bytes() == (tmp_path / "whole").read_bytes()
    assert "all_fits" in [note.code for note in made.notes]
    assert not any(merge(three, f"{tmp_path}/more/", size="400%", workers=1).errors.values())
    # Nobody has to look with the base model for that, nor plan it.
    looks: list[str] = []
    merge(
        three,
        tmp_path / "unseen",
        size="400%",
        workers=1,
        look=Look(sensitivity=lambda: looks.append("") or {}),
    )
    with raises(UsageError, got="a size with room for every bit"):
        plan(three, MergeOptions(limit=Limit("400%"), workers=1))
    assert not looks
    less = merge(three, tmp_path / "less", size=whole.size - 1, workers=1)
    assert less.size < whole.size
    assert max(less.errors.values()) > 0
