"""HydraOpt with M heads, and other published merging methods.

Each is a pure function on the factors of one module; ``apply`` runs one over whole adapters.
"""

from hydraopt.methods.apply import apply
from hydraopt.methods.combine import Combined, combine
from hydraopt.methods.registry import METHODS, Method

__all__ = ["METHODS", "Combined", "Method", "apply", "combine"]
