"""Merge as HydraOpt was published, with one A for all tasks and M heads B, to compare with."""

from hydraopt.methods.apply import apply
from hydraopt.methods.combine import Combined, combine
from hydraopt.methods.registry import METHODS, Method
from hydraopt.methods.small import Merged

__all__ = ["METHODS", "Combined", "Merged", "Method", "apply", "combine"]
