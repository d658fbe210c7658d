"""hydraopt: many LoRA adapters of one base model in one small bundle, and every adapter back.

    >>> import hydraopt
    >>> result = hydraopt.merge("adapters/*", "phone.hydra.safetensors")  # doctest: +SKIP
    >>> bundle = hydraopt.open_bundle("phone.hydra.safetensors")  # doctest: +SKIP
    >>> bundle["numbers-de"].save_pretrained("numbers-de/")  # doctest: +SKIP

The names below load on first use, so that ``import hydraopt`` and the command line start at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydraopt.lazy import load
from hydraopt.version import __version__

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter, read_adapter, read_adapters
    from hydraopt.bundle.reader import Bundle
    from hydraopt.bundle.task import TaskAdapter
    from hydraopt.collection.opening import open_bundle, verify_bundle
    from hydraopt.editing.shrink import shrink
    from hydraopt.editing.verbs import add, remove, replace
    from hydraopt.errors import HydraoptError
    from hydraopt.export.formats import export_task
    from hydraopt.inspect.adapters import inspect_adapters
    from hydraopt.inspect.bundle import inspect_bundle
    from hydraopt.merging.merge import MergeResult, merge
    from hydraopt.report.files import write_report
    from hydraopt.report.hub import push_to_hub
    from hydraopt.runtime.attached import Attached, attach

_HOMES = {
    "Adapter": "hydraopt.adapters",
    "Attached": "hydraopt.runtime.attached",
    "Bundle": "hydraopt.bundle.reader",
    "HydraoptError": "hydraopt.errors",
    "MergeResult": "hydraopt.merging.merge",
    "TaskAdapter": "hydraopt.bundle.task",
    "add": "hydraopt.editing.verbs",
    "attach": "hydraopt.runtime.attached",
    "export_task": "hydraopt.export.formats",
    "inspect_adapters": "hydraopt.inspect.adapters",
    "inspect_bundle": "hydraopt.inspect.bundle",
    "merge": "hydraopt.merging.merge",
    "open_bundle": "hydraopt.collection.opening",
    "push_to_hub": "hydraopt.report.hub",
    "read_adapter": "hydraopt.adapters",
    "read_adapters": "hydraopt.adapters",
    "remove": "hydraopt.editing.verbs",
    "replace": "hydraopt.editing.verbs",
    "shrink": "hydraopt.editing.shrink",
    "verify_bundle": "hydraopt.collection.opening",
    "write_report": "hydraopt.report.files",
}

__all__ = [
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
]


def __getattr__(name: str) -> Any:
    return load(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return __all__
