"""Writes docs/cli.md from the commands themselves: what their --help says, on one page. `make docs` runs it."""
# ruff: noqa: INP001  the documentation is no package

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).with_name("cli.md")

# A flag that so many commands have, with the same meaning, is explained once.
COMMON = 10

HEAD = """\
# Commands

What `--help` says of each command, made from the commands themselves by `make docs`. Every command has `-h`, `--help`;
`seldon --version` tells the version. [Commands and settings](reference/cli.md) says what they print, and which settings
there are.

Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted. Flags may be written as in Go: `-o=false`, `-i=10`, `--force=true`.
"""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: how it is written, what it does."""

    written: str
    told: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: what is typed, what it does by paragraphs (the first in short), its examples and flags."""

    name: str
    usage: str
    paragraphs: tuple[str, ...]
    example: str
    flags: tuple[Flag, ...]
    accepted: tuple[str, ...]


def verbs(group: click.Group, parent: click.Context | None = None) -> Iterator[Verb]:
    """All commands below a group, in the order of their names."""
    ctx = click.Context(group, parent, info_name="seldon" if parent is None else group.name)
    for _, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from verbs(command, ctx)
        else:
            yield _verb(command, ctx)


def page(group: click.Group) -> str:
    """The page, in Markdown."""
    found = list(verbs(group))
    counted = Counter(flag for verb in found for flag in verb.flags)
    common = [flag for flag, count in counted.items() if count >= COMMON]
    contents = "\n".join(
        [
            "| command | what it does |",
            "| --- | --- |",
            *(f"| [`{verb.name}`](#{_anchor(verb.name)}) | {verb.paragraphs[0]} |" for verb in found),
        ]
    )
    shared = "## Flags of many commands\n\n" + _table(common)
    return "\n".join([HEAD, contents + "\n", *(_section(verb, common) for verb in found), shared])


def _verb(command: click.Command, parent: click.Context) -> Verb:
    ctx = click.Context(command, parent, info_name=command.name)
    options = [param for param in command.params if isinstance(param, click.Option)]
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [text for text in paragraphs if text.startswith("\b")]
    return Verb(
        name=ctx.command_path,
        usage=" ".join((ctx.command_path, *command.collect_usage_pieces(ctx))),
        paragraphs=tuple(" ".join(text.split()) for text in paragraphs if text not in examples),
        example=inspect.cleandoc(examples[0].partition("Example:\n")[2]),
        flags=tuple(_flag(option, ctx) for option in options if not option.hidden),
        accepted=tuple(", ".join(f"`{name}`" for name in option.opts) for option in options if option.hidden),
    )


def _flag(option: click.Option, ctx: click.Context) -> Flag:
    record = option.get_help_record(ctx)
    assert record is not None, "hidden flags are left out before"
    return Flag(*record)


def _section(verb: Verb, common: Sequence[Flag]) -> str:
    own = [flag for flag in verb.flags if flag not in common]
    shared = [f"`{flag.written.split()[0]}`" for flag in common if flag in verb.flags]
    parts = [
        f"## {verb.name}",
        *verb.paragraphs,
        f"```sh\n{verb.usage}\n```",
        f"For example:\n\n```sh\n{verb.example}\n```",
    ]
    if own:
        parts.append(_table(own).rstrip("\n"))
    if shared:
        parts.append(
            f"{'Also' if own else 'Flags:'} {', '.join(shared)}: [flags of many commands](#flags-of-many-commands)."
        )
    if verb.accepted:
        parts.append(f"Accepted, without effect: {', '.join(verb.accepted)}.")
    return "\n\n".join(parts) + "\n"


def _table(flags: Sequence[Flag]) -> str:
    rows = [f"| `{_cell(flag.written)}` | {_cell(flag.told)} |" for flag in flags]
    return "\n".join(["| flag | what it does |", "| --- | --- |", *rows]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(main), encoding="utf-8")
