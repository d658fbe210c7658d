"""``hydraopt completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hydraopt.cli.common import say_raw

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options and file names.

    \b
    Example:
      eval "$(hydraopt completion bash)"
      hydraopt completion zsh > ~/.zfunc/_hydraopt
      hydraopt completion fish > ~/.config/fish/completions/hydraopt.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    say_raw(made(ctx.find_root().command, {}, "hydraopt", "_HYDRAOPT_COMPLETE").source())
