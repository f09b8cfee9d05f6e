"""`mnemos completion`."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples
      eval "$(mnemos completion bash)"      # in ~/.bashrc
      eval "$(mnemos completion zsh)"       # in ~/.zshrc
      mnemos completion fish | source       # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from ..main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "mnemos", "_MNEMOS_COMPLETE").source())
