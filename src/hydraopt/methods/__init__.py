"""Other ways to put many adapters together: HydraOpt's own, and the merging methods it is compared
with. Each is a pure function on the factors of one module; ``apply`` runs one over whole adapters.
"""

from hydraopt.methods.apply import apply
from hydraopt.methods.registry import METHODS, Method

__all__ = ["METHODS", "Method", "apply"]
