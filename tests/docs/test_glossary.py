"""The glossary's classes and folders exist, and its things have no second names in the code."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache

import pytest

from tests.docs.pages import DOCS, ROOT, paragraphs
from tests.trees import tree_of

GLOSSARY = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "hydraopt"

BANNED = {
    # A word that is no identifier, nor a piece of one: the glossary's word for the same thing.
    "codec": "coder",
    "damage": "harm",
    "delta": "dW",
    "distortion": "harm, or relative error",
    "penalty": "price",
    "quota": "budget",
    "residual": "error",
    "skeleton": "shared core",
    "term": "part",
    "terms": "parts",
    "tenant": "task",
    # Words that name nothing.
    "found": "what it holds",
    "misc": "what it is",
    "stuff": "what it is",
    "util": "what it does",
    "utils": "what they do",
}

PUBLIC = {"TaskNotFoundError"}
"""Names that callers know, and that keep a word which is banned elsewhere."""


def entries() -> list[str]:
    return [text for text in paragraphs(GLOSSARY) if text.startswith("**")]


@cache
def trees() -> list[ast.Module]:
    return [tree_of(path) for path in SOURCE.rglob("*.py")]


@cache
def identifiers() -> frozenset[str]:
    """Names that the code gives: of functions, classes, arguments, variables and fields."""
    names = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return frozenset(names)


def pieces(name: str) -> set[str]:
    """``TaskPlan_of`` is task, plan, of; the whole name counts as well."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    return {name.lower().strip("_"), *(word.lower() for word in words)}


def test_an_entry_is_a_sentence_with_a_place() -> None:
    assert len(entries()) > 50
    terms = [re.match(r"\*\*([^*]+)\*\*", entry) for entry in entries()]
    assert all(terms)
    names = [term.group(1) for term in terms if term]
    assert len(names) == len(set(names))
    for entry in entries():
        if not re.match(r"\*\*(row|type)\*\* needs one", entry):
            assert re.search(r"\. `[\w/]+`$", entry), entry


def test_its_classes_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", GLOSSARY))
    assert len(named) > 20
    assert named - types().keys() == set()


def types() -> Counter[str]:
    """Names of classes, and of types that a module names, with how many modules define each."""
    counts = Counter[str]()
    for tree in trees():
        names = {x.name for x in ast.walk(tree) if isinstance(x, ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.Assign):
                names |= {x.id for x in node.targets if isinstance(x, ast.Name)}
        counts.update(names)
    return counts


def test_no_type_of_its_name_is_something_else() -> None:
    words = [name.group(1) for x in entries() if (name := re.match(r"\*\*(\w+)\*\*", x))]
    forms = {form for word in words for form in (word, f"{word}s", word.removesuffix("s"))}
    counts = types()
    assert counts["Factors"] == counts["Source"] == counts["Pair"] == 1
    assert {x: counts[x] for x in map(str.capitalize, forms) if counts[x] > 1} == {}
    assert not counts.keys() & {"Row", "Rows", "Part", "Parts", "Form"}


def test_its_folders_exist() -> None:
    named = set(re.findall(r"`([a-z/]+)/`", GLOSSARY))
    assert len(named) > 5
    assert [x for x in named if not ((SOURCE / x).is_dir() or (ROOT / x).is_dir())] == []


@pytest.mark.parametrize("word", BANNED)
def test_no_identifier_is_a_second_name(word: str) -> None:
    used = sorted(name for name in identifiers() - PUBLIC if word in pieces(name))
    assert not used, f"the glossary's word is: {BANNED[word]}"


def test_pieces_of_names() -> None:
    assert pieces("TaskPlan_of") == {"taskplan_of", "task", "plan", "of"}
    assert pieces("_dW") == {"dw", "d", "w"} | {"dw"}
