"""A servant of tests, which worker processes import by name."""

from __future__ import annotations

import os
import time

from hydraopt.errors import UsageError, explain


class TwoPartsError(Exception):
    """It is pickled well, and not read: its constructor wants more than its message."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class Unreadable:
    """Its pickle cannot be read."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)


class Refuses:
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("no such folder")


class Counter:
    """Counts, and fails in several ways."""

    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, more: int) -> int:
        self.value += more
        return self.value

    def echo(self, data: bytes) -> bytes:
        return data

    def refuse(self) -> None:
        raise UsageError(explain("refused", module="m"))

    def fail(self) -> float:
        return 1 / (self.value - self.value)

    def fail_in_two_parts(self) -> None:
        raise TwoPartsError("left", "right")

    def unreadable(self) -> object:
        return Unreadable()

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def blas_threads(self) -> list[int]:
        import numpy as np
        from threadpoolctl import threadpool_info

        np.eye(3) @ np.eye(3)
        return [x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"]
