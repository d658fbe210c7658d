"""Encoding of measured harm, sensitivities and refits as JSON values, for the cache.

The records of a refit form one stream, as in a bundle. A value from the cache may be damaged.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hydraopt.bundle.harm import Harm
from hydraopt.coding.chunks import ChunkReader, ChunkWriter
from hydraopt.coding.records import PartsRecord, read_record, states_mode, write_record
from hydraopt.coding.stream import StreamReader
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import HydraoptError
from hydraopt.merging.look import MeasuredHarm

__all__ = [
    "answers_from_json",
    "depends_on",
    "harm_from_json",
    "harm_to_json",
    "records_from_json",
    "records_to_json",
    "sensitivities_from_json",
]


def answers_from_json(
    value: Any, answers: int, most: int, vocabulary: int | None
) -> list[list[int]] | None:
    """Return cached answers as tokens; None if the value does not hold this number of them.

    most: maximum number of tokens per answer. vocabulary: number of token ids; None for any.
    """
    if not (isinstance(value, list) and len(value) == answers):
        return None
    if not all(isinstance(answer, list) and len(answer) <= most for answer in value):
        return None
    end = math.inf if vocabulary is None else vocabulary
    fine = all(type(x) is int and 0 <= x < end for answer in value for x in answer)
    return value if fine else None


def harm_to_json(measured: MeasuredHarm) -> list[float]:
    """Return a measured harm as JSON values."""
    harm = measured.harm
    return [harm.changed, harm.answers, harm.likely, harm.kl, measured.kl_error]


def harm_from_json(value: Any, answers: int, held_out: bool) -> MeasuredHarm | None:
    """Return a cached harm of this number of answers; None if the value is not one."""
    if not (isinstance(value, list) and len(value) == 5):
        return None
    fine = all(type(x) in (int, float) and 0 <= x < math.inf for x in value)
    if (
        not fine
        or value[1] != answers
        or type(value[0]) is not int
        or value[2] > 1
        or value[0] > value[1]
    ):
        return None
    changed, _, likely, kl, kl_error = value
    return MeasuredHarm(Harm(changed, answers, likely, kl, held_out), kl_error)


def sensitivities_from_json(value: Any, modules: Iterable[str]) -> dict[str, float] | None:
    """Return cached sensitivities by module path; None if the value does not hold them."""
    if not (isinstance(value, dict) and value.keys() == {*modules}):
        return None
    fine = all(type(x) is float and 0 < x < math.inf for x in value.values())
    return value if fine else None


def depends_on(coded: Mapping[str, CodedModule]) -> list[bytes | str]:
    """Return all of some modules that a refit of them depends on."""
    parts: list[bytes | str] = []
    for path, module in sorted(coded.items()):
        record = module.record
        parts += [path, str(record.mode.code), record.exponents.tobytes()]
        for side in (record.left, record.right):
            parts.append(side.values.tobytes())
            for block in (side.coordinates, side.own, side.residual and side.residual.basis.block):
                parts.append(b"" if block is None else block.spreads.tobytes())
        parts += [b"" if x is None else x.vectors.tobytes() for x in module.bases]
    return parts


def records_to_json(
    records: Mapping[str, PartsRecord], coded: Mapping[str, CodedModule]
) -> dict[str, Any]:
    """Return the records of some of these modules as JSON values."""
    writer = ChunkWriter()
    for path, record in sorted(records.items()):
        write_record(writer, record, states_mode(coded[path].bases, coded[path].start))
        writer.end_record(record.numbers)
    data = base64.b64encode(writer.finish()).decode("ascii")
    return {"modules": sorted(records), "stream": data}


def records_from_json(
    value: Any, coded: Mapping[str, CodedModule]
) -> dict[str, PartsRecord] | None:
    """Return the records in a cached value.

    Returns None if the value does not hold records of these modules.
    """
    try:
        paths, data = value["modules"], base64.b64decode(value["stream"], validate=True)
        if len(paths) > len(coded):
            return None
        reader = ChunkReader(
            data, len(paths), _at_most(sum(x.record.numbers for x in coded.values()))
        )
        records = {path: _next(reader, coded[path]) for path in paths}
        reader.close()
    except (HydraoptError, AssertionError, KeyError, TypeError, ValueError):
        return None
    return records


def _at_most(most: int) -> Callable[[int], None]:
    def spend(numbers: int) -> None:
        if numbers > most:
            raise ValueError(f"{numbers} numbers, {most} at most")

    return spend


def _next(reader: StreamReader, module: CodedModule) -> PartsRecord:
    before = module.record
    m, n = before.left.values.shape[0], before.right.values.shape[0]
    record = read_record(reader, m, n, module.bases, module.start)
    reader.end_record()
    if record is None or (record.count, record.mode) != (before.count, before.mode):
        raise ValueError("a record of another kind")
    return record
