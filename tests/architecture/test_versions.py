"""The lock and the bounds of pyproject.toml agree, and name no place to download from."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import LEFT_OUT, LOCK, ROOT, bounds, lowest

ENTRIES = re.findall(r"^[^\s#].*(?:\n    .*)*", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked() -> dict[str, list[str]]:
    """Versions by name: one for each range of Python versions, where they differ."""
    found: dict[str, list[str]] = {}
    for entry in ENTRIES:
        name, _, rest = entry.partition("==")
        found.setdefault(canonicalize_name(name), []).append(rest.split()[0])
    return found


@pytest.mark.parametrize("name", sorted({name for name, _ in bounds()} - set(LEFT_OUT)))
def test_the_lock_is_within_the_bounds(name: str) -> None:
    versions = locked()[canonicalize_name(name)]
    for line in (specifiers for other, specifiers in bounds() if other == name):
        for version in versions:
            assert version in Requirement(name + line).specifier, "run python -m tools.lock"


def test_every_entry_of_the_lock_has_hashes_and_no_address() -> None:
    assert len(ENTRIES) > 50
    for entry in ENTRIES:
        assert HASH.search(entry), entry
        assert not re.search(r"[/@]|never", HASH.sub("", entry)), entry
    assert not set(LEFT_OUT) & set(locked())


def test_every_bound_has_two_ends() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in (None, *project["optional-dependencies"]):
        for name, versions in bounds(extra):
            assert re.fullmatch(r">=[\d.]+,<\d+", versions), f"{name}{versions}"


def test_the_lowest_versions_are_allowed_by_every_extra_of_the_tests() -> None:
    pinned = dict(line.split("==") for line in lowest().splitlines())
    for name, versions in bounds():
        if name not in LEFT_OUT:
            assert pinned[name] in Requirement(name + versions).specifier
