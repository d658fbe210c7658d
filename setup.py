"""The one compiled file of hydraopt; pyproject.toml states everything else."""

import os

from setuptools import Extension, setup

# Nothing that changes a result: no -ffast-math, no -march, no fused products and sums.
OPTIONS = [] if os.name == "nt" else ["-O3", "-std=c11", "-ffp-contract=off", "-fno-trapping-math"]

setup(
    ext_modules=[
        Extension(
            "hydraopt.codec.loops",
            ["src/hydraopt/codec/loops.c"],
            extra_compile_args=OPTIONS,
            py_limited_api=True,
        )
    ],
    # One wheel of a platform serves all versions of Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
