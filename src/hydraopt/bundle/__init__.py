"""The file: manifest, writer, lazy reader, verify; a task given back."""

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
