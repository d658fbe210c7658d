"""Time the least work of a merge: read the files, one thin QR per module and side, one write."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits

__all__ = ["baseline"]


def baseline(folders: Sequence[Path], target: Path, size: int, dtype: DTypeLike) -> None:
    """Read PEFT folders, stack each module's factors over tasks, QR both, write ``size`` bytes.

    A thread for each core and BLAS held to one, as in a merge: BLAS threads of their own are slower
    on matrices of this size, many times so on a busy machine.
    """
    stacks = defaultdict(list)
    for folder in folders:
        for key, values in load_file(str(folder / "adapter_model.safetensors")).items():
            stacks[key].append(values.T if ".lora_A." in key else values)

    def one(tall: list[NDArray[np.float32]]) -> None:
        np.linalg.qr(np.concatenate(tall, axis=1).astype(dtype))

    threads = len(os.sched_getaffinity(0))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, stacks.values()))
    with target.open("wb") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
