"""Files and folders of prompts: rows and texts, and files named as the adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydraopt.cli.options import texts_of
from hydraopt.errors import UsageError
from hydraopt.merging import HarmSettings
from hydraopt.model import prompt_text, prompts as prompts_module, read_prompt_folder, read_prompts
from tests.harm.cases import lines
from tests.raising import raises

NAMES = ("de", "fr", "it")
META = json.dumps({"instruction": "Do."})


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("de.txt", 'eins\n\n"zwei"\neins\n', ["eins", '"zwei"']),
        ("de.txt", "one\r\n\r\ntwo\r\n", ["one", "two"]),
        ("de.txt", "\ufeffone\n", ["one"]),
        *[("de.txt", f"one{x}more\ntwo", [f"one{x}more", "two"]) for x in "\u2028\x85\x0b\x1c"],
        ("de.jsonl", lines("un\ndeux", {"prompt": "trois"}), ["un\ndeux", "trois"]),
        ("de.jsonl", '"one"\r\n"a\u2028b"\r\n', ["one", "a\u2028b"]),
        ("de.JSONL", lines("x"), ["x"]),
        ("de.ndjson", lines("x"), ["x"]),
        ("de.jsonl", "\ufeff" + lines({"input": "x"}), [prompt_text("Do.", "x")]),
        (
            "de.jsonl",
            lines({"input": "x", "output": "kept out"}, {"input": "y", "instruction": "I."}),
            [prompt_text("Do.", "x"), prompt_text("I.", "y")],
        ),
    ],
)
def test_what_is_a_prompt(tmp_path: Path, name, content, prompts) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    (tmp_path / "META.json").write_text(META, encoding="utf-8-sig")
    assert read_prompts(tmp_path / name) == prompts
    for other in ("notes.md", "._de.txt", ".fr.jsonl", "de.json", "settings.json"):
        (tmp_path / other).write_bytes(b"\0")
    assert read_prompt_folder(tmp_path, NAMES) == {"de": prompts}


@pytest.mark.parametrize(
    "line",
    ["{", "3", "[]", '""', '{"x": "y"}', '{"prompt": 3}', '{"prompt": ""}', '{"input": 3}',
     '{"input": "x", "instruction": 5}', r'"cut \ud83d"', "[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_no_prompt_is_refused(tmp_path: Path, monkeypatch, line: str) -> None:
    """Far down as well, behind more prompts than are of use."""
    monkeypatch.setattr(prompts_module, "DEFAULT_HARM", HarmSettings(refit_prompts=3))
    (tmp_path / "META.json").write_text(META)
    file = tmp_path / "de.jsonl"
    file.write_text(lines("a", "b", "a", "c", "d \U0001f600"))
    assert read_prompts(file) == ["a", "b", "c"]
    with file.open("a") as more:
        more.write(line)
    with raises(UsageError, what="6"):
        read_prompts(file)


@pytest.mark.parametrize("meta", [None, "{", "[]", "{}"])
def test_rows_without_an_instruction_are_refused(tmp_path: Path, meta) -> None:
    (tmp_path / "de.jsonl").write_text(lines({"input": "x"}))
    if meta is not None:
        (tmp_path / "META.json").write_text(meta)
    with raises(UsageError, file="de.jsonl" if meta is None else "META.json"):
        read_prompts(tmp_path / "de.jsonl")
    (tmp_path / "de.META.json").write_text(json.dumps({"instruction": "Own."}))
    assert read_prompts(tmp_path / "de.jsonl") == [prompt_text("Own.", "x")]


def test_files_that_have_no_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "fr.json").write_text('["un"]')
    for name in ("empty", "none", "bytes", "fr.json"):
        with raises(UsageError, file=name):
            read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"instruction": "Spell.", "input": "3"}, prompt_text("Spell.", "3")),
        ({"instruction": "Say", "input": "a\n=>\nb"}, prompt_text("Say", "a\n=>\nb")),
        ('a "quoted"\n line', 'a "quoted"\n line'),
        ("é", "é"),
    ],
)
def test_a_line_is_read_as_the_prompt(tmp_path: Path, line: object, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    (read,) = read_prompts(tmp_path / "x.jsonl")
    assert read == text
    assert type(read) is type(text)


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ([], {"got": "no .jsonl or .txt file"}),
        (["df.txt"], {"got": "df"}),
        (["de.txt", "de.jsonl"], {"got": "de.jsonl and de.txt"}),
        (["de.txt", "fr.json"], {"file": "fr.json", "got": "a .json file"}),
    ],
)
def test_a_folder_without_prompts_of_the_tasks_is_refused(tmp_path: Path, files, facts) -> None:
    for name in files:
        (tmp_path / name).write_text('"x"\n')
    with raises(UsageError, **facts):
        read_prompt_folder(tmp_path, NAMES)
    for odd in (tmp_path / "none", *tmp_path.glob("de.txt")):
        with raises(UsageError, file=odd.name):
            read_prompt_folder(odd, NAMES)


def test_files_of_tasks_that_are_not_asked_about_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("eins\n")
    (tmp_path / "pl.jsonl").write_text("broken")
    assert read_prompt_folder(tmp_path, ["de"], ["de", "pl"]) == {"de": ["eins"]}
    assert read_prompt_folder(tmp_path, ["de"], ["fr"]) == {"de": ["eins"]}
    # The file may be meant for the task without one.
    with raises(UsageError, got="pl", expected="fr"):
        read_prompt_folder(tmp_path, ["de", "fr"])
    with raises(UsageError, got="de, pl", expected="it"):
        read_prompt_folder(tmp_path, ["it"], ["de", "pl"])
    # Nor is the folder, where every task has its own file.
    given = [("", str(tmp_path)), ("fr", str(tmp_path / "de.txt"))]
    assert texts_of(given, ["fr"]) == {"fr": ["eins"]}
