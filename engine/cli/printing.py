"""What lists and states print: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.telemetry.quantiles import Quantile

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


def duration(seconds: float) -> str:
    """A time as people read it: `0.042 ms`, `4.12 ms`, `41.2 ms`, `1.23 s`."""
    return f"{_short(seconds * 1000)} ms" if seconds < 1 else f"{_short(seconds)} s"


def estimate(found: Quantile | None) -> str:
    """A time where both bounds are known that it lies between; otherwise the one that is."""
    if found is None:
        return "-"
    if found.below == float("inf"):
        return f">{found.above:g} s"
    if found.above == 0:
        return f"<{found.below * 1000:g} ms"
    # Two digits: between the bounds of a histogram it is an estimate.
    seconds = float(f"{found.seconds:.2g}")
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def rate(per_second: float) -> str:
    """How often a second: `0`, `0.03`, `4.2`, `120`, `12,000`."""
    if per_second == 0:
        return "0"
    if per_second < 1:
        return f"{per_second:.2f}"
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:,.0f}"  # noqa: PLR2004  three digits are enough


def _short(value: float) -> str:
    digits = next((digits for bound, digits in ((0.1, 3), (10, 2), (100, 1)) if value < bound), 0)
    return f"{value:,.{digits}f}"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain(str(value))
