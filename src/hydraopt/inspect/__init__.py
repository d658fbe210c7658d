"""Report what adapters share and where bytes are."""

from hydraopt.collection.opening import is_bundle
from hydraopt.inspect.adapters import inspect_adapters
from hydraopt.inspect.bundle import inspect_bundle, task_rows

__all__ = ["inspect_adapters", "inspect_bundle", "is_bundle", "task_rows"]
