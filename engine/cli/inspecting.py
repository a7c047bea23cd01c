"""`seldon pipeline inspect`: what passed each step, once or live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, TextIO

import click

from engine.cli import options
from engine.cli.inspected import FORMS, JSON, RAW, TRUNCATED, shown
from engine.cli.moments import MOMENT, iso
from engine.errors import UnknownResource
from engine.protocol.record import made_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.inspect import Inspected, TopicRecords
    from engine.settings import Settings

# How often a line on a terminal says how far it has come, in seconds.
PROGRESS_SECONDS = 0.2

# Back to the line's begin, and nothing on it.
_CLEAR = "\r\x1b[K"


class Progress:
    """One line on a terminal that says how far reading has come; nothing where nobody watches."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now, self._watched = stream, now, stream.isatty()
        self._next, self._said = now() + PROGRESS_SECONDS, False

    def told(self, count: int, timestamp: int) -> None:
        """So many records were read, the last of that time."""
        if not self._watched or (now := self._now()) < self._next:
            return
        self._next, self._said = now + PROGRESS_SECONDS, True
        self._stream.write(f"{_CLEAR}{count:,} records read, now those of {iso(timestamp)}")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line empty."""
        if self._said:
            self._stream.write(_CLEAR)
            self._stream.flush()


@click.command()
@click.argument("expression", metavar="EXPR")
@click.option("--format", "form", type=click.Choice(FORMS), default=RAW, show_default=True)
@click.option(
    "--offset",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many messages, from the latest, to show. [default: 1; with --since all]",
)
@click.option("--request-id", default="", metavar="ID", help="Show this request only, wherever it is on the topics.")
@click.option(
    "--since", type=MOMENT, metavar="TIME", help="Only what came since: 2026-11-24T09:30, or 30m, 2h, 1d ago."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@options.kafka
@click.option("--scheduler-host", hidden=True, expose_value=False, help="Accepted, without effect.")
@click.option("--authority", hidden=True, expose_value=False, help="Accepted, without effect.")
@click.option("-v", "--verbose", is_flag=True, help="Show the records' headers too.")
@click.option("-t", "--truncate", is_flag=True, help=f"Cut payloads after {TRUNCATED} characters.")
@click.option("-d", "--timeout-secs", type=float, default=5.0, show_default=True, help="How long to read at most.")
def inspect(
    expression: str,
    form: str,
    offset: int | None,
    request_id: str,
    since: int | None,
    timeout_secs: float,
    *,
    follow: bool,
    verbose: bool,
    truncate: bool,
    **flags: Any,
) -> None:
    """Show what passed each step of a pipeline.

    EXPR is PIPELINE, PIPELINE.STEP, or one of these with .inputs or .outputs, and .TENSOR behind it.

    \b
    Example:
      seldon pipeline inspect tfsimples
      seldon pipeline inspect tfsimples --request-id carjjolvqj3j2pfbut10 --format table
      seldon pipeline inspect tfsimples.tfsimple1.outputs.OUTPUT0 --format json
      seldon pipeline inspect tfsimples.outputs --since 10m
      seldon pipeline inspect tfsimples -f
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    settings = options.settings(flags, default_broker=True)
    # A command's errors are ours to print; the client would print its own before.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    asked = {
        "request_id": request_id or None,
        "offset": 1 if offset is None and since is None else offset,
        "since": since,
        "timeout": timeout_secs,
    }

    def show(found: Sequence[TopicRecords]) -> None:
        for line in shown(found, form, verbose=verbose, truncate=truncate):
            click.echo(line)

    # Who follows ends it by Ctrl-C.
    with contextlib.suppress(*(KeyboardInterrupt,) if follow else ()):
        asyncio.run(_look(settings, expression, asked, show, follow=follow, alone=form == JSON))


async def _look(
    settings: Settings,
    expression: str,
    asked: dict[str, Any],
    show: Callable[[Sequence[TopicRecords]], None],
    *,
    follow: bool,
    alone: bool,
) -> None:
    """Show what there is, and then what comes. `alone`: what stands on stderr is of problems only."""
    from engine import inspect as inspection

    progress = Progress(click.get_text_stream("stderr"))
    try:
        found = await inspection.inspect(settings, expression, told=progress.told, **asked)
    finally:
        progress.end()
    some = any(item.records for item in found.topics)
    if asked["request_id"] and not (some or follow):
        raise UnknownResource(_missing(expression, asked["request_id"], asked["since"]))
    if some or not follow:
        show(found.topics)
    _remark(expression, found, nothing=not (some or alone))
    if follow:
        await inspection.follow(settings, found, show, request_id=asked["request_id"])


def _remark(expression: str, found: Inspected, *, nothing: bool) -> None:
    if nothing:
        click.echo(f"{expression}: no records yet", err=True)
    if not found.complete:
        click.echo("there may be more of it: the time was up before all was read; raise --timeout-secs", err=True)


def _missing(expression: str, request_id: str, since: int | None) -> str:
    text = f'no record of request "{request_id}" is on the topics of {expression}'
    if since is not None:
        return f"{text} since {iso(since)}"
    made = made_at(request_id)
    if made is None:
        return text
    return f"{text} from around {iso(made * 1000)}, when its id was made; if it was sent later, say when by --since"
