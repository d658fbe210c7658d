"""Read, write and verify a bundle in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydraopt.lazy import load

if TYPE_CHECKING:
    from hydraopt.bundle.carried import Carried, pack_carried
    from hydraopt.bundle.harm import Harm, HarmPoint
    from hydraopt.bundle.items import CarriedBlob, CarriedItem
    from hydraopt.bundle.reader import Bundle, open_bundle
    from hydraopt.bundle.spec import Manifest, ModuleEntry, TaskEntry
    from hydraopt.bundle.task import TaskAdapter
    from hydraopt.bundle.verify import VerifyReport, relative_error, verify_bundle
    from hydraopt.bundle.writer import PackedBundle, pack_bundle, write_bundle

__all__ = [
    "Bundle",
    "Carried",
    "CarriedBlob",
    "CarriedItem",
    "Harm",
    "HarmPoint",
    "Manifest",
    "ModuleEntry",
    "PackedBundle",
    "TaskAdapter",
    "TaskEntry",
    "VerifyReport",
    "open_bundle",
    "pack_bundle",
    "pack_carried",
    "relative_error",
    "verify_bundle",
    "write_bundle",
]

_HOMES = {
    "Bundle": "hydraopt.bundle.reader",
    "Carried": "hydraopt.bundle.carried",
    "CarriedBlob": "hydraopt.bundle.items",
    "CarriedItem": "hydraopt.bundle.items",
    "Harm": "hydraopt.bundle.harm",
    "HarmPoint": "hydraopt.bundle.harm",
    "Manifest": "hydraopt.bundle.spec",
    "ModuleEntry": "hydraopt.bundle.spec",
    "PackedBundle": "hydraopt.bundle.writer",
    "TaskAdapter": "hydraopt.bundle.task",
    "TaskEntry": "hydraopt.bundle.spec",
    "VerifyReport": "hydraopt.bundle.verify",
    "open_bundle": "hydraopt.bundle.reader",
    "pack_bundle": "hydraopt.bundle.writer",
    "pack_carried": "hydraopt.bundle.carried",
    "relative_error": "hydraopt.bundle.verify",
    "verify_bundle": "hydraopt.bundle.verify",
    "write_bundle": "hydraopt.bundle.writer",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOMES, name)
