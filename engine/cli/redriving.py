"""`seldon pipeline redrive`: failed requests go back on their inputs topic."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options
from engine.cli.inspected import TRUNCATED
from engine.cli.moments import MOMENT
from engine.cli.printing import plain
from engine.errors import InvalidSettings

if TYPE_CHECKING:
    from engine.redrive import Failure, Redriven


@click.command()
@click.argument("name")
@click.option("--request-id", "request_ids", multiple=True, metavar="ID", help="This request; may be repeated.")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Those that failed in this step; may be repeated.")
@click.option(
    "--since", type=MOMENT, metavar="TIME", help="Those that failed since: 2026-11-24T09:30, or 30m, 2h, 1d ago."
)
@click.option("--until", type=MOMENT, metavar="TIME", help="Those that failed before.")
@click.option("--all", "everything", is_flag=True, help="All that failed.")
@click.option("--again", is_flag=True, help="Also those that were put back before.")
@click.option("--dry-run", is_flag=True, help="Only show what would be put back.")
@options.kafka
@click.option("-d", "--timeout-secs", type=float, default=60.0, show_default=True, help="How long to read at most.")
def redrive(
    name: str,
    request_ids: tuple[str, ...],
    steps: tuple[str, ...],
    since: int | None,
    until: int | None,
    timeout_secs: float,
    *,
    everything: bool,
    again: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Put failed requests of a pipeline back on its inputs topic.

    They keep their key, headers and request id. One that was put back is not put back again unless it failed again.

    \b
    Example:
      seldon pipeline redrive tfsimples --since 2h --dry-run
      seldon pipeline redrive tfsimples --step tfsimple2 --since 2026-11-24T09:30
      seldon pipeline redrive tfsimples --request-id carjjolvqj3j2pfbut10
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine import redrive as redriving

    if not (request_ids or steps or since is not None or until is not None or everything):
        raise InvalidSettings("say which: --request-id, --step, --since, --until, or --all")
    settings = options.settings(flags, default_broker=True)
    # A command's errors are ours to print; the client would print its own before.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choice = redriving.Choice(frozenset(request_ids), frozenset(steps), since, until)
    found = asyncio.run(redriving.redrive(settings, name, choice, again=again, dry_run=dry_run, timeout=timeout_secs))
    for line in _lines(found, dry_run=dry_run):
        click.echo(line)


def _lines(found: Redriven, *, dry_run: bool) -> list[str]:
    """A failure on a line, and in the end how many became what."""
    from engine.redrive import Fate

    done = "would be put back" if dry_run else str(Fate.REDRIVEN)
    lines = [_line(failure, done if fate is Fate.REDRIVEN else fate) for failure, fate in found.fates]
    count = {fate: sum(each is fate for _, each in found.fates) for fate in Fate}
    told = [f"{count[Fate.REDRIVEN]} of {len(found.fates)} failed requests {done} on {found.topic}"]
    if count[Fate.BEFORE]:
        told.append(f"{count[Fate.BEFORE]} {'was' if count[Fate.BEFORE] == 1 else 'were'} put back before (--again)")
    if count[Fate.GONE]:
        told.append(f"{count[Fate.GONE]} no longer there")
    return [*lines, "; ".join(told)]


def _line(failure: Failure, fate: str) -> str:
    at = datetime.fromtimestamp(failure.timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = failure.text if len(failure.text) <= TRUNCATED else f"{failure.text[:TRUNCATED]}..."
    return "\t".join((plain(failure.request_id), at, plain(failure.step), fate, plain(text)))
