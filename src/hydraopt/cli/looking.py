"""Originals, result files and missing packages, for ``report``, ``eval`` and ``serve``."""

from __future__ import annotations

import click

from hydraopt.errors import UsageError, explain

__all__ = ["missing", "originals_option"]

originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="Original adapters of the bundle; several may follow one --originals.",
)


def missing(command: str, error: ModuleNotFoundError, extra: str) -> UsageError:
    """Return the error for a command whose packages are missing. extra: installs them."""
    return UsageError(
        explain(
            f"{command} needs more packages",
            got=f"no module {error.name}",
            do=f"pip install 'hydraopt[{extra}]'",
        )
    )
