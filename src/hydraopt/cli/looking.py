"""Originals and result files, for ``report`` and ``eval``."""

from __future__ import annotations

import click

__all__ = ["originals_option"]

originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="Original adapters of the bundle; several may follow one --originals.",
)
