"""Options that studies of a set's bundles have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.quality.sets import SETS

__all__ = ["add_set", "add_study"]


def add_set(parser: argparse.ArgumentParser) -> None:
    """The set, its task files, and how the base model computes."""
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")


def add_study(parser: argparse.ArgumentParser) -> None:
    """These, and what goes where."""
    add_set(parser)
    parser.add_argument("--keep-bundles", action="store_true", help="as for evidence")
    parser.add_argument("--out", type=Path, help="another folder for the result")
