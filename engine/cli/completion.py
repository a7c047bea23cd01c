"""`seldon completion`: what a shell reads to complete the commands and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

# What click asks by when the script calls us: made of the command's name.
_VARIABLE = "_SELDON_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script by which a shell completes commands and flags.

    \b
    Example:
      seldon completion bash > ~/.local/share/bash-completion/completions/seldon
      source <(seldon completion zsh)
      seldon completion fish > ~/.config/fish/completions/seldon.fish
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    made = _SHELLS[shell](ctx.find_root().command, {}, "seldon", _VARIABLE)
    # Not `source`, which for bash runs the bash of this machine first to look at its version.
    click.echo(made.source_template % made.source_vars())
