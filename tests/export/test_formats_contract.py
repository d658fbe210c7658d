"""What every export format has to keep; a new one is a row of FORMATS and a reader in targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle import TaskAdapter
from hydraopt.cli.moving import FORMATS as NAMED
from hydraopt.errors import ExportError, UsageError
from hydraopt.export import FORMATS, export_task, find_format
from tests.conftest import write_adapter
from tests.export.targets import (
    READERS,
    bundled,
    pairs,
    products,
    save_base,
    small_task,
    started_task,
)
from tests.raising import raises

EVERY = pytest.mark.parametrize("form", sorted(FORMATS))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "model")


def options(form: str, base: Path) -> dict[str, Any]:
    return {"format": form, "base": base if FORMATS[form].needs_base else None}


def content(target: Path) -> dict[str, bytes]:
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return {x.name if target.is_dir() else "": x.read_bytes() for x in files}


def test_all_have_a_reader_and_the_command_knows_them() -> None:
    assert set(READERS) == set(FORMATS) == set(NAMED)
    with pytest.raises(UsageError):
        find_format("coreml")


@EVERY
@pytest.mark.parametrize("make", [small_task, started_task])
def test_what_is_read_back_is_the_task(
    make: Callable[..., TaskAdapter], form: str, base: Path, tmp_path: Path
) -> None:
    task = make(tmp_path, form=form)
    target = tmp_path / f"out{FORMATS[form].suffix}"
    export_task(task, target, **options(form, base))
    expected, found = products(task), READERS[form](target, base)
    assert set(found) == set(expected)
    for path, dense in expected.items():
        scale = np.abs(dense).max()
        # f16 is the coarsest type here: 11 bits, in A and in B.
        np.testing.assert_allclose(found[path], dense, atol=2e-3 * scale, err_msg=path)


@EVERY
def test_equal_content_equal_bytes(form: str, base: Path, tmp_path: Path) -> None:
    task = small_task(tmp_path, form=form)
    for name in ("a", "b"):
        export_task(task, tmp_path / name, **options(form, base))
    assert content(tmp_path / "a") == content(tmp_path / "b")


@EVERY
def test_what_is_in_the_way_stays(form: str, base: Path, tmp_path: Path) -> None:
    task = small_task(tmp_path, form=form)
    out = tmp_path / "out"
    out.mkdir()
    taken = out / "notes"
    if FORMATS[form].suffix:
        taken.write_text("mine")
    else:
        taken.mkdir()
        (taken / "thesis.txt").write_text("mine")
    before = content(taken)
    with pytest.raises(UsageError):
        export_task(task, taken, **options(form, base))
    assert content(taken) == before
    export_task(task, taken, overwrite=True, **options(form, base))
    kept = taken.is_file() or (taken / "thesis.txt").read_text() == "mine"
    assert kept
    assert [x.name for x in out.iterdir()] == ["notes"]  # nothing temporary is left
    written = content(taken)
    with raises(UsageError, file="notes"):  # an adapter is in the way like any file
        export_task(task, taken, **options(form, base))
    assert content(taken) == written


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"peft"}))
def test_what_has_no_place_is_refused_by_name(form: str, base: Path, tmp_path: Path) -> None:
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    made = write_adapter(
        tmp_path / "numbers",
        pairs(form=form),
        extras={key: np.ones((2, 32), np.float32)},
        trainable_token_indices={"embed_tokens": [1, 2]},
    )
    task = bundled(tmp_path, made)["numbers"]
    target = tmp_path / "out" / "x"
    with raises(ExportError, adapter="numbers"):
        export_task(task, target, **options(form, base))
    assert not target.exists()
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"peft"}))
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
def test_settings_that_mean_another_sum_are_refused(
    form: str, settings: dict[str, Any], what: str, base: Path, tmp_path: Path
) -> None:
    if (form, what) == ("gguf", "aLoRA"):
        return  # has a place for them: test_export_gguf.py
    task = small_task(tmp_path, form=form, **settings)
    with pytest.raises(ExportError, match=what):
        export_task(task, tmp_path / "out", **options(form, base))


@EVERY
def test_options_it_does_not_have_are_refused(form: str, base: Path, tmp_path: Path) -> None:
    task, row = small_task(tmp_path, form=form), FORMATS[form]
    for name, value in (("dtype", "float32"), ("base", base), ("uniform_rank", True)):
        if name not in row.takes:
            with pytest.raises(UsageError):
                export_task(task, tmp_path / "out", **{**options(form, base), name: value})
    if row.needs_base:
        with pytest.raises(UsageError):
            export_task(task, tmp_path / "out", format=form)
        with raises(UsageError, file="nowhere"):
            export_task(task, tmp_path / "out", format=form, base=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
