"""What lists and states print: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

TABLE, JSON, YAML = "table", "json", "yaml"


def form(default: str, told: str | None = None) -> Callable[[Any], Any]:
    """The flag -o; `told` says what is printed without it where that is none of the three."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice((TABLE, JSON, YAML)),
        default=None if told else default,
        help=f"How it is printed. [default: {told or default}]",
    )


def document(value: Any, form: str) -> str:
    """A value as JSON on one line, or as YAML; without the line's end."""
    text = json.dumps(value)
    if form == JSON:
        return text
    # By way of JSON, which takes tuples and enumerations for what they are.
    return str(yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)).rstrip("\n")


def rows(found: Sequence[Mapping[str, Any]], columns: Mapping[str, str], form: str) -> str:
    """Rows in full as JSON or YAML; a table has the columns named, each the title of a key."""
    if form != TABLE:
        return document(found, form)
    return table(columns, ([_cell(row[key]) for key in columns.values()] for row in found))


def table(titles: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns of one width each, with tabs between them and dashes under their titles."""
    cells = [[*titles], ["-" * len(title) for title in titles], *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "\t".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def plain(text: str) -> str:
    """Text that stays on its line and in its column, and gives a terminal no orders."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain(str(value))
