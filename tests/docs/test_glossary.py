"""The classes and folders that the glossary names exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache

from tests.docs.pages import DOCS, ROOT, paragraphs
from tests.trees import tree_of

GLOSSARY = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "hydraopt"


def entries() -> list[str]:
    return [text for text in paragraphs(GLOSSARY) if text.startswith("**")]


@cache
def trees() -> list[ast.Module]:
    return [tree_of(path) for path in SOURCE.rglob("*.py")]


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
