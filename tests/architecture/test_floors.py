"""The plan of the house: rooms, floors, climbs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.test_imports import SOURCE
from tools.floors import House, Import


def test_nothing_climbs() -> None:
    assert House(SOURCE).climbs() == []


@pytest.fixture
def house(tmp_path: Path) -> House:
    files = {
        "__init__.py": "",
        "errors.py": "",
        "bundle/__init__.py": "from house.bundle import task",
        "bundle/task.py": "def save():\n    from house.export.peft import write",
        "bundle/spec.py": "import house.errors",
        "export/peft.py": "from typing import TYPE_CHECKING\nfrom house.bundle.spec import x\n"
        "if TYPE_CHECKING:\n    import house.cli",
        "merging.py": "from house.bundle.spec import x",
        "cli/main.py": "def run():\n    from house import merging",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(tmp_path / "house")


def test_a_room_stands_above_what_it_imports(house: House) -> None:
    assert house.floors == {"errors": 1, "bundle": 2, "export": 3, "merging": 3, "cli": 4}


def test_what_would_close_a_circle_climbs(house: House) -> None:
    climb = Import("bundle.task", "export.peft", False)
    assert house.climbs() == [climb]
    # The package around a module is loaded with it.
    assert house.climbs("merging") == [climb]
    assert house.climbs("bundle.spec") == []
