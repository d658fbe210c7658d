"""``hydraopt``: the group of verbs, and what becomes of errors.

Start-up imports click and nothing heavy: numpy, numba, torch and rich load inside a verb, once its
arguments are known to be right.
"""

from __future__ import annotations

from typing import Any

import click

from hydraopt import __version__
from hydraopt.cli.eval import eval_
from hydraopt.cli.export import export
from hydraopt.cli.inspect import inspect
from hydraopt.cli.merge import merge
from hydraopt.cli.methods import methods
from hydraopt.cli.serve import serve
from hydraopt.cli.shrink import shrink
from hydraopt.cli.use import use
from hydraopt.cli.verify import verify
from hydraopt.errors import HydraoptError

__all__ = ["cli", "main"]

INTERRUPTED = 130


class Refusal(click.ClickException):
    """An error of the user's making: one message, no traceback."""

    exit_code = 2


class Shell(click.Group):
    """A group that turns what verbs raise into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HydraoptError as error:
            raise Refusal(str(error)) from error
        except BrokenPipeError:
            raise  # click knows: the reader of our output has gone
        except OSError as error:
            raise Refusal(f"{error.strerror or error} [{error.filename or 'no file'}]") from error
        except KeyboardInterrupt:
            click.echo("Interrupted; no output was left half written.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hydraopt")
def cli() -> None:
    """Many LoRA adapters of one base model in one small file, and every adapter back.

    Exit codes: 0 done, 1 verify found problems, 2 refused (the reason is on stderr), 130
    interrupted.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt inspect phone.hydra.safetensors
      hydraopt export phone.hydra.safetensors numbers-de -o numbers-de
    """


for verb in (merge, inspect, verify, export, shrink, eval_, methods, serve, use):
    cli.add_command(verb)


def main() -> None:
    """Entry point of the ``hydraopt`` command."""
    cli()
