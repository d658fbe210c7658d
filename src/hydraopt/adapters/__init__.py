"""Read adapter files of every supported format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydraopt.lazy import load

if TYPE_CHECKING:
    from hydraopt.adapters.bases import check_same_base
    from hydraopt.adapters.model import Adapter, LowRankModule
    from hydraopt.adapters.reader import Adapters, read_adapter, read_adapters
    from hydraopt.adapters.tensorfile import RawTensor, open_tensors

__all__ = [
    "Adapter",
    "Adapters",
    "LowRankModule",
    "RawTensor",
    "check_same_base",
    "open_tensors",
    "read_adapter",
    "read_adapters",
]

_HOMES = {
    "Adapter": "hydraopt.adapters.model",
    "Adapters": "hydraopt.adapters.reader",
    "LowRankModule": "hydraopt.adapters.model",
    "RawTensor": "hydraopt.adapters.tensorfile",
    "check_same_base": "hydraopt.adapters.bases",
    "open_tensors": "hydraopt.adapters.tensorfile",
    "read_adapter": "hydraopt.adapters.reader",
    "read_adapters": "hydraopt.adapters.reader",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOMES, name)
