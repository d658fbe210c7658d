"""Threads share a module's work out and change no bit of it."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from hydraopt.codec import FORMS, encode_bases, encode_module, in_threads, modes_of, plan_module
from hydraopt.codec.core import Stacked
from hydraopt.codec.costs import MEASURES
from tests.compress.core_factors import core_of
from tests.compress.test_forms_contract import bytes_of, related


def test_a_module_is_the_same_in_any_number_of_threads() -> None:
    pairs, measure, made = related(tasks=7), MEASURES["bias-aware"], []
    for threads in (1, 2, 3, 9):
        core = core_of(pairs)
        plan = plan_module(core, [1.0] * 7, 1e-4, measure, modes_of(FORMS))
        module = encode_module(core, plan, measure, threads=threads)
        assert module.left is not None or module.right is not None
        made.append((bytes_of(module, 7, "private"), module.errors))
    assert made[1:] == made[:1] * 3


@pytest.mark.parametrize("alone", ["bases", "tasks"])
def test_vectors_are_read_once_and_by_one_thread(alone: str) -> None:
    """They may lie in a file, which two who read at once take the wrong bytes from."""
    core, measure = core_of(related(tasks=7)), MEASURES["bias-aware"]
    plan = plan_module(core, [1.0] * 7, 1e-4, measure, modes_of(FORMS))
    left, right = encode_bases(core, plan)
    given = left.basis if left else None, right.basis if right else None
    vectors, readers = (core.U, core.V), list[threading.Thread]()

    def read() -> tuple[Stacked, Stacked]:
        readers.append(threading.current_thread())
        return vectors

    fresh = dataclasses.replace(core, _read=read)
    if alone == "bases":
        encode_bases(fresh, plan, 2)
    else:
        encode_module(fresh, plan, measure, given, 2)
    assert readers == [threading.main_thread()]


def test_so_many_work_at_once_and_answers_keep_their_order() -> None:
    together = threading.Barrier(3, timeout=10)

    def work(x: int) -> int:
        together.wait()
        time.sleep(0.01 * (6 - x))
        return x * x

    assert list(in_threads(work, range(6), 3)) == [0, 1, 4, 9, 16, 25]


def test_one_thread_works_when_it_is_asked() -> None:
    done: list[int] = []
    answers = iter(in_threads(done.append, [1, 2], 1))
    assert done == []
    next(answers)
    assert done == [1]


def test_an_error_of_a_thread_is_raised() -> None:
    def fail(x: int) -> int:
        return 1 // x

    with pytest.raises(ZeroDivisionError):
        in_threads(fail, [1, 0, 2], 2)
