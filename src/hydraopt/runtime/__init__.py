"""A bundle's tasks on a running model: the shared core in memory once, heads when they are used.

Needs torch only; ``hydraopt.attach`` is the way in. docs/runtime.md says how to use it.
"""
