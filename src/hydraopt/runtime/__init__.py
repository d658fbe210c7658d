"""Run tasks of a bundle on a model in memory.

Needs torch only; ``hydraopt.attach`` is the way in. docs/reference/runtime.md says how to use it.
"""

from hydraopt.extras import require

require("torch")
