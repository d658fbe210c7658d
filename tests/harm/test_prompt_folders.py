"""Folders of prompts: files named as the adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydraopt.basemodel.encoding import prompt_text
from hydraopt.cli.prompting import texts_of
from hydraopt.errors import UsageError
from hydraopt.harm.prompts import read_prompt_folder, read_prompts
from tests.harm.cases import lines
from tests.raising import raises

NAMES = ("de", "fr", "it")


def test_text_and_jsonl_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("eins\n\nzwei\n")
    (tmp_path / "fr.jsonl").write_text(lines("un\ndeux", {"prompt": "trois"}))
    (tmp_path / "notes.md").write_text("not prompts")
    found = read_prompt_folder(tmp_path, NAMES)
    assert found == {"de": ["eins", "zwei"], "fr": ["un\ndeux", "trois"]}


@pytest.mark.parametrize("suffix", [".JSONL", ".ndjson"])
def test_rows_are_told_by_a_suffix_in_any_letters(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"de{suffix}").write_text(lines({"prompt": "eins"}))
    assert read_prompts(tmp_path / f"de{suffix}") == ["eins"]
    assert read_prompt_folder(tmp_path, NAMES) == {"de": ["eins"]}


def test_a_json_file_is_refused(tmp_path: Path) -> None:
    """Its lines would be prompts, braces and all; left out in a folder, nobody would know."""
    (tmp_path / "de.txt").write_text("eins\n")
    (tmp_path / "fr.json").write_text(json.dumps(["un", "deux"]))
    for read in (
        lambda: read_prompts(tmp_path / "fr.json"),
        lambda: read_prompt_folder(tmp_path, NAMES),
    ):
        with raises(UsageError, file="fr.json", got="a .json file"):
            read()
    (tmp_path / "fr.json").rename(tmp_path / "settings.json")
    assert read_prompt_folder(tmp_path, NAMES) == {"de": ["eins"]}


def test_an_instruction_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "META.json").write_text(json.dumps({"instruction": "Count."}))
    (tmp_path / "de.jsonl").write_text(lines({"input": "12", "instruction": 5}))
    with raises(UsageError, got='{"input": "12", "instruction": 5}'):
        read_prompts(tmp_path / "de.jsonl")


def test_rows_of_tasks_become_prompts_as_the_evaluation_has_them(tmp_path: Path) -> None:
    rows = {"input": "2011", "output": "kept out"}, {"input": "12", "instruction": "Count."}
    (tmp_path / "de.jsonl").write_text(lines(*rows))
    (tmp_path / "META.json").write_text(json.dumps({"instruction": "Write it."}))
    wanted = [prompt_text("Write it.", "2011"), prompt_text("Count.", "12")]
    assert read_prompts(tmp_path / "de.jsonl") == wanted
    (tmp_path / "de.META.json").write_text(json.dumps({"instruction": "Own."}))
    assert read_prompts(tmp_path / "de.jsonl")[0] == prompt_text("Own.", "2011")


def test_a_row_with_its_own_instruction_needs_no_meta(tmp_path: Path) -> None:
    (tmp_path / "de.jsonl").write_text(lines({"input": "x", "instruction": "I."}))
    assert read_prompts(tmp_path / "de.jsonl") == [prompt_text("I.", "x")]


@pytest.mark.parametrize(
    ("meta", "facts"),
    [
        (None, {"file": "de.jsonl"}),
        ("{", {"file": "META.json"}),
        ("[]", {"file": "META.json"}),
        ("{}", {"file": "META.json"}),
    ],
)
def test_rows_without_an_instruction_are_refused(tmp_path: Path, meta, facts) -> None:
    (tmp_path / "de.jsonl").write_text(lines({"input": "x"}))
    if meta is not None:
        (tmp_path / "META.json").write_text(meta)
    with raises(UsageError, **facts):
        read_prompts(tmp_path / "de.jsonl")


@pytest.mark.parametrize("line", ["3", "[]", '{"prompt": ""}', '{"input": 3}', "{", '{"x": "y"}'])
def test_a_line_that_is_no_prompt_is_refused_by_number(tmp_path: Path, line) -> None:
    (tmp_path / "de.jsonl").write_text('"fine"\n' + line + "\n")
    with pytest.raises(UsageError):
        read_prompts(tmp_path / "de.jsonl")


def test_a_file_of_no_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "df.txt").write_text("eins\n")
    with raises(UsageError, got="df"):
        read_prompt_folder(tmp_path, NAMES)


def test_two_files_of_one_adapter_and_no_files_are_refused(tmp_path: Path) -> None:
    with raises(UsageError, got="no .jsonl or .txt file"):
        read_prompt_folder(tmp_path, NAMES)
    for name in ("de.txt", "de.jsonl"):
        (tmp_path / name).write_text('"x"\n')
    with raises(UsageError, got="de.jsonl and de.txt"):
        read_prompt_folder(tmp_path, NAMES)


def test_a_json_file_beside_a_tasks_prompts_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "de.jsonl").write_text('"eins"\n')
    (tmp_path / "de.json").write_text('{"licence": "CC0"}')
    assert read_prompt_folder(tmp_path, NAMES) == {"de": ["eins"]}


def test_a_folder_is_not_read_where_every_task_has_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "fr.txt").write_text("un\n")
    (tmp_path / "own.txt").write_text("eins\n")
    given = [("", str(tmp_path / "folder")), ("de", str(tmp_path / "own.txt"))]
    assert texts_of(given, ["de"]) == {"de": ["eins"]}


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with raises(UsageError, file="none"):
        read_prompt_folder(tmp_path / "none", NAMES)
    (tmp_path / "de.txt").write_text("x\n")
    with raises(UsageError, file="de.txt"):
        read_prompt_folder(tmp_path / "de.txt", NAMES)


# --- lines and characters -------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path, mark: str) -> None:
    text = f"one{mark}more"
    (tmp_path / "de.txt").write_text(f"{text}\ntwo\n", encoding="utf-8", newline="")
    row = json.dumps(text, ensure_ascii=False)
    (tmp_path / "fr.jsonl").write_text(f"{row}\n", encoding="utf-8", newline="")
    found = read_prompt_folder(tmp_path, NAMES)
    assert found == {"de": [text, "two"], "fr": [text]}


def test_lines_of_windows_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_bytes(b"one\r\n\r\ntwo\r\n")
    (tmp_path / "fr.jsonl").write_bytes(b'"one"\r\n"two"\r\n')
    found = read_prompt_folder(tmp_path, NAMES)
    assert found == {"de": ["one", "two"], "fr": ["one", "two"]}


def test_a_mark_at_the_beginning_of_a_file_is_none_of_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("one\n", encoding="utf-8-sig")
    (tmp_path / "fr.jsonl").write_text('{"input": "one"}\n', encoding="utf-8-sig")
    meta = json.dumps({"instruction": "Do."})
    (tmp_path / "META.json").write_text(meta, encoding="utf-8-sig")
    found = read_prompt_folder(tmp_path, NAMES)
    assert found == {"de": ["one"], "fr": [prompt_text("Do.", "one")]}


def test_hidden_files_are_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("one\n")
    for name in ("._de.txt", ".DS_Store", ".fr.jsonl"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    assert read_prompt_folder(tmp_path, NAMES) == {"de": ["one"]}


@pytest.mark.parametrize("line", [r'"cut \ud83d"', "[" * 100_000])
def test_what_no_tokenizer_reads_is_refused_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "de.jsonl").write_text('"fine \\ud83d\\ude00"\n' + line + "\n")
    with pytest.raises(UsageError):
        read_prompts(tmp_path / "de.jsonl")


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
