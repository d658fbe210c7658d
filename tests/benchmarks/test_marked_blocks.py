"""Blocks go into their own pages, with links that hold from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import pages

SECTIONS = {"one": lambda: "![x](picture:growth.png)\n", "two": lambda: "2\n"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PICTURES", tmp_path / "docs" / "pictures")
    monkeypatch.setattr(pages, "TABLES", tmp_path / "docs" / "evidence" / "data")
    top, deep = tmp_path / "README.md", tmp_path / "docs" / "evidence" / "page.md"
    deep.parent.mkdir(parents=True)
    top.write_text("a\n<!-- one -->\nold\n<!-- /one -->\nb\n")
    deep.write_text("<!-- two -->\n<!-- /two -->\n<!-- one -->\nnot its page\n<!-- /one -->\n")
    monkeypatch.setattr(pages, "BLOCKS", {"one": top, "two": deep})
    return tmp_path


def test_each_block_is_written_in_its_page_alone(folder: Path) -> None:
    pages.rewrite(SECTIONS, check=False)
    top, deep = pages.BLOCKS["one"], pages.BLOCKS["two"]
    assert top.read_text() == (
        "a\n<!-- one -->\n![x](docs/pictures/growth.png)\n<!-- /one -->\nb\n"
    )
    assert deep.read_text().startswith("<!-- two -->\n2\n<!-- /two -->\n")
    assert "not its page" in deep.read_text()
    pages.rewrite(SECTIONS, check=True)


def test_check_changes_nothing_and_fails_where_a_page_differs(folder: Path) -> None:
    before = pages.BLOCKS["one"].read_text()
    with pytest.raises(SystemExit, match=r"README\.md"):
        pages.rewrite({"one": SECTIONS["one"]}, check=True)
    assert pages.BLOCKS["one"].read_text() == before


def test_a_page_without_marks_is_refused(folder: Path) -> None:
    page = pages.BLOCKS["one"]
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"\bone\b"):
        pages.rewrite({"one": SECTIONS["one"]}, check=False)
    assert page.read_text() == "nothing\n"


def test_a_csv_file_is_written_and_checked(folder: Path) -> None:
    tables = {"x.csv": lambda: (["a", "b"], [[1, "two, three"]])}
    with pytest.raises(SystemExit):
        pages.write_tables(tables, check=True)
    pages.write_tables(tables, check=False)
    path = pages.TABLES / "x.csv"
    assert path.read_bytes() == b'a,b\n1,"two, three"\n'
    pages.write_tables(tables, check=True)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        pages.write_tables(tables, check=True)
    assert path.read_text() == "a,b\n1,2\n"
