"""``dispatcher completion``: the scripts that make shells complete."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_EPILOG = """\b
Examples:
  eval "$(dispatcher completion bash)"                                  in ~/.bashrc
  eval "$(dispatcher completion zsh)"                                   in ~/.zshrc
  dispatcher completion fish > ~/.config/fish/completions/dispatcher.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, queues and tasks in a shell."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "dispatcher", "_DISPATCHER_COMPLETE").source())
