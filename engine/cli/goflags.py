"""Flags as scripts for the reference write them: its command line is in Go, ours by click, which know two dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


class Group(click.Group):
    """A group whose commands take `--flag=false`, `-o=true` and `-i=10` as well."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant, and its arguments as click writes them."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else for_click(command.params, rest)


def for_click(params: Sequence[click.Parameter], args: Sequence[str]) -> list[str]:
    """Arguments of a command with these parameters, in click's dialect; what stands behind `--` is no flag."""
    options = {name: option for option in params if isinstance(option, click.Option) for name in option.opts}
    end = args.index("--") if "--" in args else len(args)
    read: list[str] = []
    for arg in args[:end]:
        name, equals, value = arg.partition("=")
        if not equals or name not in options:
            read.append(arg)
        elif options[name].is_flag:
            read += _flag(options[name], arg, value.lower())
        else:
            # Of a short flag click takes the sign for a part of the value.
            read.append(arg if name.startswith("--") else f"{name}{value}")
    return [*read, *args[end:]]


def _flag(option: click.Option, arg: str, value: str) -> list[str]:
    if value in _TRUE:
        return [option.opts[0]]
    if value in _FALSE:
        return option.secondary_opts[:1]
    return [arg]
