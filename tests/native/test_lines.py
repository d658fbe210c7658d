"""Lines of C are as long as those of Python at most; tables that a script makes are apart."""

from __future__ import annotations

from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"
MOST = 100
FOLDERS = ("src/core", "src/export", "src/posix", "include", "cli", "tests", "fuzz", "js/src")


def test_no_line_of_c_is_too_long() -> None:
    files = [x for folder in FOLDERS for x in sorted((NATIVE / folder).glob("*.[ch]"))]
    assert len(files) > len(FOLDERS)
    long = [
        f"{path.relative_to(NATIVE)}:{number}"
        for path in files
        if path.name != "gguf_table.h"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MOST
    ]
    assert not long
