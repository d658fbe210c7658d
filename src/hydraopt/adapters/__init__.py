"""Adapter files in, whoever wrote them; scales resolved."""

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
