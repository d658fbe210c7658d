"""Show the imports between the packages of the source as floors, and those that climb.

    python -m tools.floors [PACKAGE]        default src/hydraopt

A room is a folder of the package, or a module beside the folders. A room is one floor above the
highest room that it imports. An import inside a function that would close a circle climbs: it leads
to a room that is not below. The output counts all climbs, and those that the module that merges can
reach.
"""

from __future__ import annotations

import argparse
import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.trees import tree_of

__all__ = ["House"]


@dataclass(frozen=True)
class Import:
    """Import of ``other`` by ``module``, when it is loaded (``top``) or inside a function."""

    module: str
    other: str
    top: bool


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST, top: bool = True) -> Iterator[tuple[str, list[str], bool]]:
    """Yield (module, names, whether it is imported on loading) for the imports below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) or _for_type_checkers(child):
            continue
        if isinstance(child, ast.ImportFrom):
            yield child.module or "", [alias.name for alias in child.names], top
        elif isinstance(child, ast.Import):
            yield from ((alias.name, [], top) for alias in child.names)
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports(child, top and not inner)


class House:
    """Modules of a package and their imports of one another."""

    def __init__(self, package: Path) -> None:
        paths = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
        prefix = f"{package.name}."
        self.imports: set[Import] = set()
        for module, path in paths.items():
            for target, names, top in _imports(tree_of(path)):
                if f"{target}.".startswith(prefix):
                    inside = f"{target}.".removeprefix(prefix).rstrip(".")
                    full = [f"{inside}.{name}".lstrip(".") for name in names]
                    for other in {x if x in paths else inside for x in full} or {inside}:
                        if other and module:
                            self.imports.add(Import(module, other, top))
        self.rooms = sorted({_room(module) for module in paths if module})

    @functools.cached_property
    def floors(self) -> dict[str, int]:
        """Floor of every room, 1 the lowest.

        Raises RecursionError if rooms import one another in a circle when they are loaded.
        """
        below: dict[str, set[str]] = {room: set() for room in self.rooms}
        crossing = {(not x.top, _room(x.module), _room(x.other)) for x in self.imports}
        for lazy, room, other in sorted(crossing):
            if room != other and not (lazy and _reaches(below, other, room)):
                below[room].add(other)

        @functools.cache
        def floor(room: str) -> int:
            return 1 + max(map(floor, below[room]), default=0)

        return {room: floor(room) for room in self.rooms}

    def climbs(self, start: str | None = None) -> list[Import]:
        """Return imports that lead to a room that is not below.

        start: module; only imports that can be reached from it. None for all.
        """
        reached = None if start is None else self._reached(start)
        return sorted(
            (
                x
                for x in self.imports
                if _room(x.module) != _room(x.other)
                and self.floors[_room(x.other)] >= self.floors[_room(x.module)]
                and (reached is None or x.module in reached)
            ),
            key=lambda x: (x.module, x.other),
        )

    def _reached(self, start: str) -> set[str]:
        """Return the modules that ``start`` loads, with the packages around them."""
        graph: dict[str, set[str]] = {}
        for x in self.imports:
            parents = {x.other[:i] for i, letter in enumerate(x.other) if letter == "."}
            graph.setdefault(x.module, set()).update({x.other}, parents)
        return {module for module in {*graph, start} if _reaches(graph, start, module)}


def _reaches(graph: Mapping[str, set[str]], start: str, end: str) -> bool:
    done, left = set[str](), [start]
    while left:
        node = left.pop()
        if node == end:
            return True
        if node not in done:
            done.add(node)
            left += graph.get(node, ())
    return False


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    return module.partition(".")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", nargs="?", type=Path, default=Path("src/hydraopt"))
    house = House(parser.parse_args().package)
    for floor in sorted(set(house.floors.values()), reverse=True):
        rooms = [room for room, at in house.floors.items() if at == floor]
        print(f"{floor:3}  {'  '.join(rooms)}")
    merging = "merging.merge" if "merging.merge" in {x.module for x in house.imports} else "merging"
    print(
        f"{len(house.rooms)} rooms on {max(house.floors.values())} floors; "
        f"{len(house.climbs())} imports climb, {len(house.climbs(merging))} of them on the way "
        "from merging"
    )
    for climb in house.climbs():
        print(f"  {climb.module} -> {climb.other}")


if __name__ == "__main__":
    main()
