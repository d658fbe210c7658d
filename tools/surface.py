"""Count what a reader of the source has to know: lines, commands, names used twice, and the like.

python -m tools.surface [FOLDER]     counts of another checkout of this repository
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tools.pages import ROOT
from tools.trees import nodes_of, tree_of

__all__ = ["surface"]

_OPENINGS = re.compile(r"(What|How|Of|Those|Who|Which|Whose|The|That|As|Where|When)\b")
_PRIVATE = re.compile(r"setattr\(\s*[^,()]*,\s*\"_[a-z]|setattr\(\s*\"[^\"]*\._[a-z]")
_PHRASE = re.compile(r"[A-Za-z]+ [A-Za-z]+")


def _lines(paths: Iterator[Path]) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def _classes(source: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(source.rglob("*.py")):
        tree = tree_of(path)
        package = path.relative_to(source).parts[0]
        yield from ((package, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _docstrings(source: Path) -> Iterator[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in sorted(source.rglob("*.py")):
        for node in nodes_of(path):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text


def _wordings(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the places where a test looks for words in a message or in output.

    Names, numbers and options have no space in them, so they are not counted; a pattern that stands
    in a variable is.
    """
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="match", value=ast.Name()):
                yield node
            case ast.keyword(arg="match", value=value) if _is_phrase(value):
                yield node
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]):
                if _is_phrase(left) and _is_message(right):
                    yield node


def _is_phrase(node: ast.expr) -> bool:
    texts = (x.value for x in ast.walk(node) if isinstance(x, ast.Constant))
    return any(isinstance(text, str) and _PHRASE.search(text) for text in texts)


def _is_message(node: ast.expr) -> bool:
    """Return True for str(error), and for what a command printed."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") == "str"
    return getattr(node, "attr", "") in {"output", "stderr", "stdout"}


def surface(root: Path) -> dict[str, object]:
    """Return the counts of a checkout, by name."""
    source, tests = root / "src" / "hydraopt", root / "tests"
    classes = list(_classes(source))
    names = Counter(node.name for _, node in classes)
    text = [path.read_text(encoding="utf-8") for path in sorted(tests.rglob("*.py"))]
    packages = sorted(path.parent for path in source.glob("*/__init__.py"))
    return {
        "lines": {path.name: _lines(path.rglob("*.py")) for path in packages},
        "lines of source": _lines(source.rglob("*.py")),
        "lines of tests": _lines(tests.rglob("*.py")),
        "lines of benchmarks": _lines((root / "benchmarks").rglob("*.py")),
        "classes": len(classes),
        "classes of harm": sum(package == "harm" for package, _ in classes),
        "class names used twice": sorted(name for name, count in names.items() if count > 1),
        "docstrings": sum(1 for _ in _docstrings(source)),
        "docstrings with another opening": sum(
            bool(_OPENINGS.match(found)) for found in _docstrings(source)
        ),
        "dict[str, Any]": sum(
            path.read_text(encoding="utf-8").count("dict[str, Any]")
            for path in source.rglob("*.py")
        ),
        "assertions on wording": sum(1 for page in text for _ in _wordings(ast.parse(page))),
        "replaced names": sum(page.count(".setattr(") for page in text),
        "replaced private names": sum(len(_PRIVATE.findall(page)) for page in text),
        "bytes of documents": sum(path.stat().st_size for path in (root / "docs").rglob("*.md")),
    }


def main() -> None:
    """Print the counts as JSON."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    print(json.dumps(surface(root), indent=2))


if __name__ == "__main__":
    main()
