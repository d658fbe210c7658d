"""Find methods, measures and exporters by name, of hydraopt and of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Final, TypeVar

from hydraopt.errors import PluginError, UsageError, explain

METHOD_GROUP: Final = "hydraopt.methods"
MEASURE_GROUP: Final = "hydraopt.measures"
EXPORTER_GROUP: Final = "hydraopt.exporters"

T = TypeVar("T")


def find_registered(what: str, name: str, own: Mapping[str, T], group: str, kind: type[T]) -> T:
    """Return what has this name here, or else what another package registers under it.

    Entry points are looked up only for names that are not hydraopt's own.

    Args:
        what: word for the message, such as "measure".
        name: the name to find.
        own: hydraopt's own objects, by name.
        group: group of the entry points.
        kind: class of the objects.

    Raises UsageError for a name that nobody has, PluginError for an entry point that is broken.
    """
    if name in own:
        return own[name]
    found = plugin(group, name, kind)
    if found is None:
        known = ", ".join([*own, *plugin_names(group)])
        raise UsageError(explain(f"unknown {what}", got=repr(name), expected=known))
    return found


def plugin_names(group: str) -> list[str]:
    """Return the names that are registered in a group, sorted; nothing of theirs is loaded."""
    return sorted({point.name for point in metadata.entry_points(group=group)})


def plugin(group: str, name: str, kind: type[T]) -> T | None:
    """Load what is registered under a name; None if nothing is.

    Args:
        group: one of the groups above.
        name: of the entry point.
        kind: the class that the object must be an instance of.

    Raises PluginError if several packages register the name, if the object cannot be loaded, and if
    it is of another class.
    """
    points = tuple(metadata.entry_points(group=group, name=name))
    if not points:
        return None
    if len({point.value for point in points}) > 1:
        raise _broken(group, name, got=", ".join(point.value for point in points))
    (point, *_) = points
    try:
        found = point.load()
    except Exception as error:
        raise _broken(group, name, got=f"{type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        wanted = f"{kind.__module__}.{kind.__qualname__}"
        raise _broken(group, name, got=type(found).__name__, expected=f"a {wanted}")
    return found


def _broken(group: str, name: str, got: str, expected: str = "one object") -> PluginError:
    return PluginError(
        explain(
            f"the entry point {name} of {group} cannot be used",
            got=got,
            expected=expected,
            do="Mend or uninstall the package that registers it",
        )
    )
