"""Tasks of a bundle on a model in memory, the shared core once.

Needs torch only; ``hydraopt.attach`` is the way in. docs/reference/runtime.md says how to use it.
"""
