"""An evaluation that was stopped goes on where it was, and gives the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hydraopt import merge, read_adapters
from hydraopt.evaluate import compare, forced, run
from hydraopt.evaluate.compare import EvaluationRequest, evaluate, read_compared
from tests.evaluate.test_run import factors
from tests.marks import slow

READS = 27
"""Batches of an evaluation that was asked, a row each, at least: how many answers are those that
were expected depends on how the processor rounds."""


OTHERS = ("answers", "base", "config", "meta")
"""What else a request may differ in."""


class Stopped(BaseException):
    """As if the process were killed."""


@pytest.fixture
def cache(own_cache: Path) -> Path:
    return own_cache / "eval"


@pytest.fixture
def asked(trained, tasks, make_adapter, tmp_path, cache):
    """(what is compared, the request), with a batch for each row."""
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    pairs = {"spell-en": factors(0.1), "spell-fr": factors(0.1, 1)}
    folders = [make_adapter(tmp_path / name, made) for name, made in pairs.items()]
    (tasks / "spell" / "fr").mkdir()
    rows = (tasks / "spell" / "en" / "test.jsonl").read_bytes()
    (tasks / "spell" / "fr" / "test.jsonl").write_bytes(rows)
    bundle = tmp_path / "x.hydra.safetensors"
    merge(read_adapters(folders), bundle, error=0.3)
    compared = read_compared([*map(str, folders), str(bundle)])
    return compared, EvaluationRequest(str(tmp_path / "base"), tasks, rows=6)


@pytest.fixture
def work(monkeypatch) -> dict[str, list[int]]:
    """Rows that were read, and that were written, by call; ``most`` ends the process."""
    done: dict[str, list[int]] = {"read": [], "written": [], "most": [10**6]}
    batches_of, of_batch, generate = forced.batches_of, forced.read_batch, run.generate

    def single(model, items):
        one = [batches_of(model, [item])[0][1] for item in items]
        return [([i], batch) for i, batch in enumerate(one)]

    def counted(model, batch, items, sets, reference):
        if len(done["read"]) == done["most"][0]:
            raise Stopped
        done["read"].append(len(sets))
        return of_batch(model, batch, items, sets, reference)

    def written(model, tokenizer, items, *more):
        done["written"].append(len(items))
        return generate(model, tokenizer, items, *more)

    monkeypatch.setattr(forced, "batches_of", single)
    monkeypatch.setattr(forced, "read_batch", counted)
    monkeypatch.setattr(run, "generate", written)
    return done


def plain(result):
    return replace(result, seconds=0)


def begin(work, most: int) -> None:
    work["read"].clear()
    work["written"].clear()
    work["most"][0] = most


@pytest.mark.parametrize("share", [slow(0.3), 0.95])
def test_it_goes_on_where_it_was_stopped(asked, work, cache, share: float) -> None:
    whole = plain(evaluate(*asked))
    reads, writes = len(work["read"]), len(work["written"])
    assert not list(cache.iterdir())
    most = int(share * reads)
    begin(work, most)
    with pytest.raises(Stopped):
        evaluate(*asked)
    begun = len(work["written"])
    assert list(cache.iterdir())
    begin(work, 10**6)
    assert plain(evaluate(*asked)) == whole
    assert len(work["read"]) == reads - most
    assert len(work["written"]) == writes - begun
    assert not list(cache.iterdir())


def test_a_task_that_is_done_is_not_counted_again(asked, work, monkeypatch) -> None:
    begin(work, READS - 1)
    counted, task_result = [], compare.task_result
    monkeypatch.setattr(
        compare, "task_result", lambda *given: counted.append(0) or task_result(*given)
    )
    with pytest.raises(Stopped):
        evaluate(*asked)
    assert len(counted) == 1
    begin(work, 10**6)
    evaluate(*asked)
    assert len(counted) == 2


@pytest.mark.slow  # the one above sees that nothing is left of it
def test_what_is_done_is_measured_again(asked, work) -> None:
    evaluate(*asked)
    reads = len(work["read"])
    evaluate(*asked)
    assert len(work["read"]) == 2 * reads


BROKEN = [
    "[[1]]", '{"base": {}}', '{"base": [], "original": []}', '{"base": [{"loss": true}]}',
    '{"base": [{"loss": 0.1, "tokens": 1.0, "divergence": 0.0, "agreement": 1.0, "written": 2}]}',
]  # fmt: skip


@pytest.mark.parametrize("content", ["", *map(slow, BROKEN)])
def test_what_is_broken_is_measured_again(asked, work, cache, content: str) -> None:
    whole = plain(evaluate(*asked))
    begin(work, 3 * READS // 4)
    with pytest.raises(Stopped):
        evaluate(*asked)
    for file in cache.glob("*/*/*.json"):
        file.write_text(content)
    begin(work, 10**6)
    assert plain(evaluate(*asked)) == whole


@pytest.mark.parametrize("other", ["rows", "task", *map(slow, OTHERS)])
def test_another_request_has_nothing_to_go_on_with(asked, work, tasks, tmp_path, other) -> None:
    compared, request = asked
    if other == "rows":
        request = replace(request, rows=5)
    if other == "answers":
        request = replace(request, answers=2)
    begin(work, READS - 1)
    with pytest.raises(Stopped):
        evaluate(*asked)
    if other == "base":
        from safetensors.torch import load_file, save_file

        file = tmp_path / "base" / "model.safetensors"
        save_file({key: 1.01 * x for key, x in load_file(file).items()}, file, {"format": "pt"})
    if other == "config":
        file = tmp_path / "base" / "generation_config.json"
        file.write_text(file.read_text() + " ")
    if other == "meta":
        file = tasks / "spell" / "META.json"
        file.write_text(file.read_text().replace("Spell.", "Write."))
    if other == "task":
        with (tasks / "spell" / "en" / "test.jsonl").open("a") as file:
            file.write('{"input": "11", "output": "eleven"}\n')
    begin(work, 10**6)
    evaluate(compared, request)
    # Of the other task as well, where the task alone differs.
    rows = READS - 5 if other == "rows" else READS
    assert len(work["read"]) >= (READS // 2 if other == "task" else rows)


def test_a_base_that_nobody_knows_keeps_nothing(asked, work, cache, monkeypatch) -> None:
    monkeypatch.setattr(compare, "weights_hash", lambda base: None)
    begin(work, 5)
    with pytest.raises(Stopped):
        evaluate(*asked)
    assert not cache.exists()


def test_what_others_made_is_known_by_its_factors(asked, work) -> None:
    compared, request = asked

    def made(seed: int):
        return replace(compared, others={"other": {"spell-fr": factors(0.1, seed)}})

    evaluate(made(2), request)
    reads = len(work["read"])
    begin(work, reads - 1)
    with pytest.raises(Stopped):
        evaluate(made(2), request)
    begin(work, 10**6)
    evaluate(made(3), request)
    assert len(work["read"]) > 1


def test_a_result_that_cannot_be_written_is_not_lost(asked, work, cache) -> None:
    def full(result) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        evaluate(*asked, save=full)
    begin(work, 0)
    saved = []
    evaluate(*asked, save=saved.append)
    assert [task.adapter for task in saved[0].tasks] == ["spell-en", "spell-fr"]
    assert not list(cache.iterdir())


def test_what_nobody_asks_for_again_goes(asked, work, cache) -> None:
    begin(work, 5)
    with pytest.raises(Stopped):
        evaluate(*asked)
    (old,) = cache.iterdir()
    begin(work, 5)
    compared, request = asked
    with pytest.raises(Stopped):
        evaluate(compared, replace(request, rows=4))
    assert len(list(cache.iterdir())) == 2
    for file in (*old.iterdir(), old):
        os.utime(file, (0, 0))
    begin(work, 5)
    with pytest.raises(Stopped):
        evaluate(compared, replace(request, rows=5))
    assert len(list(cache.iterdir())) == 2
    assert not old.exists()


def test_what_is_known_of_rows_goes_when_their_task_is_done(asked, work, cache) -> None:
    begin(work, READS - 1)
    with pytest.raises(Stopped):
        evaluate(*asked)
    (folder,) = cache.iterdir()
    (done,) = (folder / "done").iterdir()
    assert json.loads(done.read_text())["adapter"] == "spell-en"
    (rows,) = (x for x in folder.iterdir() if x.name != "done")
    assert rows.is_dir()
