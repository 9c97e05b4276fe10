"""`refrain completion`: the script that lets a shell complete commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(*, shell: str) -> None:
    """Print the shell's completion script.

    \b
    To have it in every new shell:
      bash   echo 'source <(refrain completion bash)' >> ~/.bashrc
      zsh    echo 'source <(refrain completion zsh)' >> ~/.zshrc
      fish   refrain completion fish > ~/.config/fish/completions/refrain.fish
    """
    from jobs.cli import cli

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(cli, {}, "refrain", "_REFRAIN_COMPLETE").source())
