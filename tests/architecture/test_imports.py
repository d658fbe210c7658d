"""Imports of the source: no circles, and heavy libraries only where they are needed."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.marks import slow
from tools.trees import nodes_of, tree_of

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "hydraopt"

LAYERS = (
    ("errors", "notes", "progress", "version"),
    ("codec", "files"),
    ("adapters",),
    ("bundle",),
    ("export", "merging"),
    ("inspect", "model"),
    ("evaluate", "serve"),
    ("report",),
    ("cli",),
)
"""Rooms of the package from the ground up; a room imports only rooms of lower floors."""
MOST_ROOMS, MOST_FLOORS = 24, 9

# Third parties, and the modules that may import them at all. click is the command line's own
# language; everything else here is heavy, so it loads inside the function that needs it.
HEAVY = {
    "torch": {"adapters", "bundle.peft", "cli.serve", "evaluate", "model", "serve"},
    "transformers": {"model"},
    "safetensors": {"model"},
    "fastapi": {"serve.api"},
    "starlette": {"report.page", "serve.api"},
    "uvicorn": {"report.page", "serve.limits", "serve.server"},
    "pydantic": {"serve.api", "serve.messages"},
    "prometheus_client": {"serve.api"},
    "peft": set(),
    "matplotlib": {"report"},
    "gguf": {"export"},
    "scipy": set(),
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "vllm": {"export.vllm_plugin"},
    "fsspec": {"files.objects"},
    "requests": {"files.http"},
    "click": {"cli"},
    "rich": {"cli"},
    "ray": {"merging.rayworkers"},
}
PUBLIC = {
    "Adapter",
    "Attached",
    "Bundle",
    "HydraoptError",
    "MergeResult",
    "TaskAdapter",
    "__version__",
    "add",
    "attach",
    "export_task",
    "inspect_adapters",
    "inspect_bundle",
    "merge",
    "open_bundle",
    "push_to_hub",
    "read_adapter",
    "read_adapters",
    "remove",
    "replace",
    "shrink",
    "verify_bundle",
    "write_report",
}


def name_of(path: Path) -> str:
    """ "bundle.reader" for the file of that module; "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {name_of(path): path for path in FILES}


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, bool], ...]:
    """(imported module, at the top level?) of a file, with imports for type checkers."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                module = child.module or ""
                for alias in child.names:
                    full = f"{module}.{alias.name}".removeprefix("hydraopt.")
                    yield (f"hydraopt.{full}" if full in MODULES else module), top
            checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, top and not inner and not checked)

    return tuple(walk(tree_of(path), True))


def inside_of(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports."""
    for other, _ in imports_of(path):
        if other.startswith("hydraopt."):
            yield other.removeprefix("hydraopt.")


def room_of(module: str) -> str:
    """The package, or the lone module, that a module is in."""
    return module.partition(".")[0]


def test_imports_lead_down_through_the_fronts_of_packages() -> None:
    """Data never climbs, and a package uses only what another offers in its ``__init__``."""
    floors = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
    assert {room_of(module) for module in MODULES} - {"", "__main__"} == floors.keys()
    assert len(floors) <= MOST_ROOMS
    assert len(LAYERS) <= MOST_FLOORS
    wrong = [
        f"{module} imports {other}"
        for module in sorted(MODULES.keys() - {"", "__main__"})
        for other in inside_of(MODULES[module])
        if room_of(other) != room_of(module)
        and (floors[room_of(other)] >= floors[room_of(module)] or other != room_of(other))
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: sorted({*inside_of(path)} - {module}) for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


OUTSIDE = {"tests", "zoo", "benchmarks", "examples", "pytest"}
LOADED_WHOLE = ("evaluate.", "files.http", "merging.rayworkers", "model.", "serve.")
"""Modules that may import heavy libraries at the top: the function that needs one loads it."""


def _misplaced(module: str) -> Iterator[str]:
    """Describe each import of a module that has no business there."""
    homes = {module, *(module[:i] for i, c in enumerate(module) if c == ".")}
    for imported, top in imports_of(MODULES[module]):
        library = imported.partition(".")[0]
        if library in OUTSIDE or not homes & HEAVY.get(library, homes):
            yield f"{module} imports {library}"
        loads = top and library in HEAVY and library != "click"
        if loads and not module.startswith(LOADED_WHOLE):
            yield f"{module} imports {library} when it is imported"


def test_heavy_libraries_load_where_they_are_needed() -> None:
    assert [found for module in sorted(MODULES) for found in _misplaced(module)] == []


def test_no_file_is_long() -> None:
    long = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 600} == {}


LONGER: set[str] = set()
"""Functions that are longer than a screen, each with a comment that says why."""


def test_no_two_test_files_have_one_name() -> None:
    # pytest imports them by it.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_machine_is_named() -> None:
    # Absolute paths of the author's machine in code, data or docs.
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert str(ROOT) not in text


ALONE = """
import importlib, os, sys, warnings
warnings.simplefilter("error")
import numpy, torch  # not ours, and slow to load sixty times
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{name}: {error!r}")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{name} does not import alone")
"""


@pytest.mark.slow
def test_each_module_imports_alone() -> None:
    # Each in a fork of a process that has imported nothing of ours: order hides import cycles.
    names = [f"hydraopt.{module}" if module else "hydraopt" for module in sorted(MODULES)]
    if importlib.util.find_spec("ray") is None:  # an extra that this file alone imports
        names.remove("hydraopt.merging.rayworkers")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


LIGHT = """
import sys
import hydraopt
assert set(dir(hydraopt)) == set(hydraopt.__all__)
hydraopt.HydraoptError
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"numpy", "torch", "scipy", "safetensors", "transformers", "peft"}))
import hydraopt.cli.main
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"numpy", "torch", "scipy", "rich", "transformers", "matplotlib"}))
import hydraopt.bundle.reader, hydraopt.merging.changes, hydraopt.merging.pipeline
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"fsspec", "requests", "s3fs", "aiohttp"}))
"""


def run(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_the_command_line_loads_nothing_heavy() -> None:
    assert run(LIGHT).split("\n")[:3] == ["[]", "[]", "[]"]


def test_public_names_are_frozen() -> None:
    import hydraopt

    assert set(hydraopt.__all__) == PUBLIC
    assert hydraopt.__all__ == sorted(hydraopt.__all__, key=str)
    for name in PUBLIC:
        assert getattr(hydraopt, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        hydraopt.nothing


TWICE = """
import sys
import hydraopt
assert callable(hydraopt.merge) and callable(hydraopt.shrink)
import hydraopt.merging.pipeline, hydraopt.merging.shrinking
for name in sys.argv[1:]:
    value = getattr(hydraopt, name)
    assert type(value).__name__ != "module", name
"""


# Those of the runtime load torch and transformers, which takes seconds.
@pytest.mark.parametrize("names", [PUBLIC - {"Attached", "attach"}, slow(PUBLIC)], ids=len)
def test_a_public_name_stays_what_it_is(names: set[str]) -> None:
    # A submodule named like a public function would put itself over it.
    run(TWICE, *sorted(names))


def test_no_two_classes_have_one_name() -> None:
    names: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                names.setdefault(node.name, []).append(module)
    assert {name: homes for name, homes in names.items() if len(homes) > 1} == {}


# Names that fit any module, so that a reader has to open the file to learn what is in it.
UNSAID: list[str] = []
EMPTY_NAMES = {"base", "common", "helpers", "misc", "stuff", "things", "tools", "utils"}


def test_a_file_name_says_what_is_in_it() -> None:
    assert [name for name in MODULES if name.rpartition(".")[2] in EMPTY_NAMES] == UNSAID
