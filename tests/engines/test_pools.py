"""What every engine promises: order, errors, and what happens when a worker is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hydraopt.errors import UsageError
from hydraopt.merging.pool import Answer, Pool, SerialPool, WorkerLostError
from hydraopt.merging.workers import Processes
from tests.engines.servants import Counter, Refuses, Unreadable
from tests.raising import raises

POOLS: dict[str, Callable[[], Pool]] = {
    "alone": SerialPool,
    "one": lambda: Processes(1),
    "three": lambda: Processes(3),
}


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with POOLS[request.param]() as made:
        made.hire(Counter, 10)
        yield made


@pytest.mark.slow
def test_calls_to_one_worker_are_answered_in_order(pool: Pool) -> None:
    answers = [pool.call(n % pool.size, "add", 1) for n in range(9)]
    per = 9 // pool.size
    assert [x() for x in answers] == [10 + 1 + n // pool.size for n in range(9)]
    assert [pool.call(w, "add", 0)() for w in range(pool.size)] == [10 + per] * pool.size


def test_answers_may_be_waited_for_in_any_order(pool: Pool) -> None:
    answers = [pool.call(n % pool.size, "add", 1) for n in range(6)]
    later = [x() for x in reversed(answers)]
    assert later[::-1] == [x() for x in answers]


def test_errors_are_raised_where_the_answer_is_asked_for(pool: Pool) -> None:
    last = pool.size - 1
    wrong, right = pool.call(last, "refuse"), pool.call(last, "add", 1)
    assert right() == 11
    with raises(UsageError, module="m"):
        wrong()


def test_nothing_is_revived_where_nothing_is_lost(pool: Pool) -> None:
    assert pool.revive() == []


def test_large_arguments_and_answers_do_not_block_each_other() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        data = bytes(2 << 20)
        answers = [pool.call(1, "echo", data) for _ in range(8)]
        assert all(x() == data for x in answers)


def test_a_lost_worker_is_an_error_and_another_takes_its_place() -> None:
    with Processes(3) as pool:
        pool.hire(Counter, 5)
        assert pool.call(1, "add", 1)() == 6
        owed = pool.call(1, "sleep", 60)
        os.kill(pool.pids[0], signal.SIGKILL)
        with raises(WorkerLostError, got="signal 9"):
            owed()
        with pytest.raises(WorkerLostError):
            pool.call(1, "add", 1)()
        assert pool.revive() == [1]
        assert pool.call(1, "add", 1)() == 6  # a new servant, which remembers nothing
        assert pool.revive() == []


def test_a_worker_that_fails_unexpectedly_says_where() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            pool.call(1, "fail")()
        assert "servants.py" in "".join(caught.value.__notes__)


def test_closing_ends_workers_that_are_at_work() -> None:
    pool = Processes(2)
    (pid,) = pool.pids
    pool.hire(Counter, 0)
    pool.call(1, "sleep", 60)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_have_one_thread_for_linear_algebra() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        counts = pool.call(1, "blas_threads")()
        assert set(counts) == {1}


def soon(answer: Answer) -> BaseException | None:
    """What it raises; fails where it would wait forever."""
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            answer()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return caught[0] if caught else None


def test_an_error_that_cannot_be_read_is_told_as_text() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        error = soon(pool.call(1, "fail_in_two_parts"))
        assert isinstance(error, RuntimeError)
        assert str(error) == "TwoPartsError: left: right"
        assert pool.call(1, "add", 1)() == 1


def test_an_answer_that_cannot_be_read_is_a_lost_worker() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        error = soon(pool.call(1, "unreadable"))
        assert isinstance(error, WorkerLostError)
        assert "cannot be read: ValueError" in str(error)
        assert pool.revive() == [1]


def test_a_question_that_cannot_be_read_is_answered() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        error = soon(pool.call(1, "echo", Unreadable()))
        assert isinstance(error, ValueError)
        assert pool.call(1, "add", 1)() == 1


def test_a_servant_that_cannot_be_made_is_the_answer_to_every_call() -> None:
    with Processes(2) as pool:
        pool._others[0].hire(Refuses, ())
        for _ in range(2):
            error = soon(pool.call(1, "add", 1))
            assert isinstance(error, FileNotFoundError)
            assert "no such folder" in str(error)
