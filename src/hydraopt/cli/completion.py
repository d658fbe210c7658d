"""``hydraopt completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hydraopt.cli.common import emit_json, json_option, say_raw

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print what makes SHELL complete commands, options and file names.

    bash and zsh: eval "$(hydraopt completion bash)" in the file that the shell reads at its start.
    fish: write it to ~/.config/fish/completions/hydraopt.fish.

    \b
    Example:
      hydraopt completion bash
    """
    made = get_completion_class(shell)
    assert made is not None
    script = made(ctx.find_root().command, {}, "hydraopt", "_HYDRAOPT_COMPLETE").source()
    if as_json:
        emit_json({"schema": "hydraopt.completion/1", "shell": shell, "script": script})
    else:
        say_raw(script)
