"""Tables of the entropy coder: complete, decodable, and the same in every reader."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hydraopt.codec.tables import (
    COST_BITS,
    ESCAPE,
    FREQUENCIES,
    LEVEL_TABLES,
    LEVELS,
    MIDDLE,
    PRICES,
    SIDE,
    STARTS,
    TOTAL,
    Kind,
    level_bits,
    level_table,
    symbols_of_slots,
)

ROOT = Path(__file__).resolve().parents[2]


def test_every_table_shares_out_all_slots_and_can_escape() -> None:
    assert FREQUENCIES.shape == (LEVEL_TABLES + len(Kind), ESCAPE + 1)
    assert (FREQUENCIES.sum(axis=1) == TOTAL).all()
    assert (FREQUENCIES >= 0).all()
    assert (FREQUENCIES[:, ESCAPE] > 0).all()
    assert (FREQUENCIES < TOTAL).all()


def test_slots_are_those_of_the_symbols() -> None:
    slots = symbols_of_slots()
    for table in (0, 5, LEVEL_TABLES - 1, len(FREQUENCIES) - 1):
        for symbol in np.flatnonzero(FREQUENCIES[table]):
            start = STARTS[table, symbol]
            assert (slots[table, start : start + FREQUENCIES[table, symbol]] == symbol).all()


def test_every_class_has_a_table_of_its_own_up_to_where_bits_are_raw() -> None:
    tables = {
        level_table(shape, number, q)
        for shape in range(3)
        for number in range(1, 22)
        for q in (0, 1)
    }
    assert tables == set(range(LEVEL_TABLES))
    assert level_table(1, 81, 1) == level_table(1, 21, 0)


@pytest.mark.parametrize("path", ["docs/reference/tables.h", "native/src/core/tables.h"])
def test_the_headers_have_the_same_numbers(path: str) -> None:
    text = re.sub(r"/\*.*?\*/", "", (ROOT / path).read_text(), flags=re.DOTALL)
    arrays = [
        [[int(x) for x in re.findall(r"\d+", row)] for row in re.findall(r"\{([^{}]*)\}", body)]
        for body in text.split("static const")[1:]
    ]
    assert arrays == [LEVELS, SIDE]


@pytest.mark.parametrize("number", [1, 5, 17, 18, 22, 40])
def test_prices_are_those_of_the_tables(number: int) -> None:
    bits = level_bits(number)
    assert bits.shape == (2, 65)
    for q in (0, 1):
        raw = 0 if number <= 17 else (number - 14) // 4
        assert bits[q, 0] == raw + PRICES[level_table(0, number, q), MIDDLE] / (1 << COST_BITS)
    assert (np.diff(bits[:, 1:], axis=1) > -1).all()
