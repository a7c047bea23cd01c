"""`seldon pipeline inspect`: what passed each step, one record on a line or as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options
from engine.cli.printing import plain
from engine.errors import UnknownResource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.inspect import Source, TopicRecords
    from engine.protocol.record import Record

# What --truncate leaves of a payload: enough to recognise it by, and a line of a terminal.
TRUNCATED = 120


@click.command()
@click.argument("expression", metavar="EXPR")
@click.option("--format", "form", type=click.Choice(("raw", "json")), default="raw", show_default=True)
@click.option(
    "--offset",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many messages, from the latest, to look at.",
)
@click.option("--request-id", default="", metavar="ID", help="Show this request only.")
@options.kafka
@click.option("--scheduler-host", hidden=True, expose_value=False, help="Accepted, without effect.")
@click.option("--authority", hidden=True, expose_value=False, help="Accepted, without effect.")
@click.option("-v", "--verbose", is_flag=True, help="Show the records' headers too.")
@click.option("-t", "--truncate", is_flag=True, help=f"Cut payloads after {TRUNCATED} characters.")
@click.option("-d", "--timeout-secs", type=float, default=5.0, show_default=True, help="How long to read at most.")
def inspect(
    expression: str,
    form: str,
    offset: int,
    request_id: str,
    timeout_secs: float,
    *,
    verbose: bool,
    truncate: bool,
    **flags: Any,
) -> None:
    """Show what passed each step of a pipeline.

    EXPR is PIPELINE, PIPELINE.STEP, or one of these with .inputs or .outputs, and .TENSOR behind it.

    \b
    Example:
      seldon pipeline inspect tfsimples
      seldon pipeline inspect tfsimples.tfsimple1.outputs.OUTPUT0 --format json
      seldon pipeline inspect tfsimples --request-id carjjolvqj3j2pfbut10 --offset 10
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine import inspect as inspection

    settings = options.settings(flags, default_broker=True)
    # A command's errors are ours to print; the client would print its own before.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    found = asyncio.run(
        inspection.inspect(settings, expression, request_id=request_id or None, offset=offset, timeout=timeout_secs)
    )
    if request_id and not any(item.records for item in found):
        raise UnknownResource(
            f'no record of request "{request_id}" is among the last {offset} of the pipeline on its topics; '
            f"look farther back by --offset, for example --offset {offset * 10}"
        )
    if form == "json":
        click.echo(_compact(_document(found, truncate=truncate)))
        return
    for line in _lines(found, verbose=verbose, truncate=truncate):
        click.echo(line)
    if not any(item.records for item in found):
        click.echo(f"{expression}: no records yet", err=True)


def _lines(found: Sequence[TopicRecords], *, verbose: bool, truncate: bool) -> list[str]:
    """A record on a line: topic, key, value, and by two tabs its headers."""
    lines = []
    for item in found:
        for record in item.records:
            value = _shown(record, item.source, truncate=truncate)
            text = plain(value) if isinstance(value, str) else _compact(value)
            line = f"{record.topic}\t{plain(_text(record.key))}\t{text}"
            if verbose:
                line += "\t\t" + "\t".join(
                    f"{plain(name)}=[{plain(' '.join(values))}]" for name, values in _headers(record).items()
                )
            lines.append(line)
    return lines


def _document(found: Sequence[TopicRecords], *, truncate: bool) -> dict[str, Any]:
    return {
        "topics": [
            {
                "name": item.source.topic,
                "msgs": [
                    {
                        "headers": _headers(record),
                        "key": _text(record.key),
                        "value": _shown(record, item.source, truncate=truncate),
                    }
                    for record in item.records
                ],
            }
            for item in found
        ]
    }


def _shown(record: Record, source: Source, *, truncate: bool) -> Any:
    """The value for people; a cut one is text, as no part of JSON is JSON."""
    from engine.inspect import readable

    value = readable(record, source)
    if not truncate:
        return value
    text = value if isinstance(value, str) else _compact(value)
    return text if len(text) <= TRUNCATED else f"{text[:TRUNCATED]}..."


def _headers(record: Record) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in record.headers:
        found.setdefault(name, []).append(_text(value))
    return found


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")


def _compact(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
