"""`seldon topics list`: our topics, with what stands on them and who is how far behind."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from engine.cli import goflags, options, printing

if TYPE_CHECKING:
    from engine.kafka.listing import Standing

_COLUMNS = {"topic": "topic", "partitions": "partitions", "records": "records", "size": "size", "lag": "lag"}

_THOUSAND = 1000


@click.group(cls=goflags.Group)
def topics() -> None:
    """Look at the topics on Kafka.

    \b
    Example:
      seldon topics list
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


@topics.command("list")
@click.option("-A", "--all-namespaces", is_flag=True, help="Those of every namespace.")
@printing.form(printing.TABLE)
@options.kafka
@options.accepted
def list_(form: str, *, all_namespaces: bool, **flags: Any) -> None:
    """List our topics with their records, their size, and how far who reads them is behind.

    \b
    Example:
      seldon topics list
      seldon topics list --all-namespaces -o json
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine.kafka.listing import standings

    settings = options.settings(flags, default_broker=True)
    # A command's errors are ours to print; the client would print its own before.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    found = asyncio.run(standings(settings, all_namespaces=all_namespaces))
    rows = [asdict(each) for each in found]
    if form == printing.TABLE:
        rows = [_row(each, settings.topic_prefix) for each in found]
    click.echo(printing.rows(rows, _COLUMNS, form))


def _row(standing: Standing, prefix: str) -> dict[str, Any]:
    begin = f"{prefix}.{standing.namespace}."
    lag = ", ".join(f"{group.removeprefix(begin)} {behind}" for group, behind in standing.lag.items())
    return {
        "topic": standing.topic,
        "partitions": standing.partitions,
        "records": standing.records,
        "size": size(standing.bytes),
        "lag": lag or "-",
    }


def size(count: int | None) -> str:
    """So many bytes for people, to three figures or so; a dash for what is not known.

    >>> size(999), size(12_345), size(2_500_000_000)
    ('999 B', '12.3 kB', '2.5 GB')
    """
    if count is None:
        return "-"
    if count < _THOUSAND:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= _THOUSAND
        if value < _THOUSAND:
            return f"{value:.1f} {unit}"
    return f"{value / _THOUSAND:.1f} TB"
