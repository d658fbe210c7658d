"""What every engine promises: order, errors, parts, and what happens when a worker is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pytest

from hydraopt.engines import processes
from hydraopt.engines.engine import Local
from hydraopt.engines.pool import PendingResult, Pool, SerialPool, WorkerLostError
from hydraopt.engines.processes import Processes, Started
from hydraopt.engines.worker import HIRE
from hydraopt.errors import UsageError
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
    assert [x.result() for x in answers] == [10 + 1 + n // pool.size for n in range(9)]
    assert [pool.call(w, "add", 0).result() for w in range(pool.size)] == [10 + per] * pool.size


def test_answers_may_be_waited_for_in_any_order(pool: Pool) -> None:
    answers = [pool.call(n % pool.size, "add", 1) for n in range(6)]
    later = [x.result() for x in reversed(answers)]
    assert later[::-1] == [x.result() for x in answers]


def test_parts_go_from_one_worker_to_another(pool: Pool) -> None:
    answer = pool.call(0, "split", b"left", b"right", parts=2)
    assert answer.result() == 2
    last = pool.size - 1
    assert pool.call(last, "length", answer.part(1)).result() == len(b"right")
    assert pool.call(last, "length", answer.part(0)).result() == len(b"left")


def test_errors_are_raised_where_the_answer_is_asked_for(pool: Pool) -> None:
    last = pool.size - 1
    wrong, right = pool.call(last, "refuse"), pool.call(last, "add", 1)
    assert right.result() == 11
    with raises(UsageError, module="m"):
        wrong.result()


def test_nothing_is_revived_where_nothing_is_lost(pool: Pool) -> None:
    assert pool.revive() == []


def test_large_arguments_and_answers_do_not_block_each_other() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        data = bytes(2 << 20)
        answers = [pool.call(1, "echo", data) for _ in range(8)]
        assert all(x.result() == data for x in answers)


def test_a_lost_worker_is_an_error_and_another_takes_its_place() -> None:
    with Processes(3) as pool:
        pool.hire(Counter, 5)
        assert pool.call(1, "add", 1).result() == 6
        owed = pool.call(1, "sleep", 60)
        os.kill(pool.pids[0], signal.SIGKILL)
        with raises(WorkerLostError, got="signal 9"):
            owed.result()
        with pytest.raises(WorkerLostError):
            pool.call(1, "add", 1).result()
        assert pool.revive() == [1]
        assert pool.call(1, "add", 1).result() == 6  # a new servant, which remembers nothing
        assert pool.revive() == []


def test_what_was_being_sent_to_a_lost_worker_does_not_reach_the_next(monkeypatch) -> None:
    begun, go_on, late = threading.Event(), threading.Event(), threading.Event()

    class Late(Connection):
        """Its thread may be put aside between the number of its socket and the system's call."""

        def _send(self, buf: bytes, write: Callable[[int, bytes], int] = os.write) -> None:
            handle = self.fileno()
            if late.is_set():
                late.clear()
                begun.set()
                assert go_on.wait(60)
            super()._send(buf, write=lambda _, some: write(handle, some))  # type: ignore[misc]

    monkeypatch.setattr(processes, "Connection", Late)
    with Processes(2) as pool:
        pool.hire(Counter, 5)
        assert pool.call(1, "add", 1).result() == 6
        late.set()
        owed = pool.call(1, "add", 100)
        assert begun.wait(60)
        os.kill(pool.pids[0], signal.SIGKILL)
        with raises(WorkerLostError, got="signal 9"):
            owed.result()
        time.sleep(0.1)  # whoever would close the socket has done so
        (old,) = pool._others
        assert not old._connection.closed
        assert pool.revive() == [1]
        assert pool.call(1, "add", 0).result() == 5
        go_on.set()
        old._sender.join(60)
        assert not old._sender.is_alive()
        assert [pool.call(1, "add", 1).result() for _ in range(2)] == [6, 7]


def test_a_worker_that_fails_unexpectedly_says_where() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            pool.call(1, "fail").result()
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


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_pool_takes_what_started_before_and_the_rest_is_ended() -> None:
    with Started(2) as started:
        first, second = (process.pid for process in started._waiting)
        with Processes(2, started=started) as pool:
            assert pool.pids == [first]
            pool.hire(Counter, 3)
            assert pool.call(1, "add", 1).result() == 4
        assert (ended(first), ended(second)) == (True, False)
        with Processes(4, started=started) as pool:  # more than have started
            assert pool.pids[0] == second
            assert len(set(pool.pids)) == 3
    with Started(1) as started:
        pid = started._waiting[0].pid
    assert ended(pid)


def test_an_engine_starts_ahead_what_its_pool_takes() -> None:
    with Local(3).ahead(2) as engine:
        assert engine == Local(3)
        assert isinstance(engine, Local)
        assert engine.started is not None
        (waiting,) = engine.started._waiting
        with engine.pool(2, lambda: None) as pool:
            assert isinstance(pool, Processes)
            assert pool.pids == [waiting.pid]
    with Local(1).ahead(1) as alone:
        assert isinstance(alone.pool(1, lambda: None), SerialPool)


def test_workers_have_one_thread_for_linear_algebra() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        counts = pool.call(1, "blas_threads").result()
        assert set(counts) == {1}


def soon(answer: PendingResult) -> BaseException | None:
    """What it raises; fails where it would wait forever."""
    return answer._future.exception(timeout=60)  # type: ignore[attr-defined,no-any-return]


def test_an_error_that_cannot_be_read_is_told_as_text() -> None:
    with Processes(2) as pool:
        pool.hire(Counter, 0)
        error = soon(pool.call(1, "fail_in_two_parts"))
        assert isinstance(error, RuntimeError)
        assert str(error) == "TwoPartsError: left: right"
        assert pool.call(1, "add", 1).result() == 1


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
        assert pool.call(1, "add", 1).result() == 1


def test_a_servant_that_cannot_be_made_is_the_answer_to_every_call() -> None:
    with Processes(2) as pool:
        pool._others[0].post(HIRE, Refuses, ())
        for _ in range(2):
            error = soon(pool.call(1, "add", 1))
            assert isinstance(error, FileNotFoundError)
            assert "no such folder" in str(error)
