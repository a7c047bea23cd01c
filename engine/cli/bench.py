"""`seldon bench`: send load to a model or a pipeline at a rate, and say how long its answers took."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import signal
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
from rich.console import Console

from engine.cli import benched, doors, options
from engine.cli.load import Outcome, Schedule, apply
from engine.errors import EngineError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from engine.cli.doors import Call, Pairs, Reply
    from engine.cli.senders import Sender

# How often the bar moves on.
_DRAW_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Load:
    """What is sent, by which protocol, when, and how long each answer is waited for."""

    call: Call
    mode: str
    headers: Pairs
    schedule: Schedule
    timeout: float


@click.command()
@click.argument("name")
@click.argument("data", required=False)
@click.option("-f", "--file-path", type=click.File("rb"), help="A file that holds the request.")
@click.option("--header", "header", multiple=True, metavar="KEY=VAL", help="Send a header; may be repeated.")
@click.option(
    "--rate",
    type=options.Amount(0.001, 1e6),
    default=10,
    show_default=True,
    metavar="N",
    help="Requests per second.",
)
@click.option(
    "-t",
    "--seconds",
    type=options.Amount(0.001, 1e6),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="For so long.",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(min=1, max=100_000),
    default=256,
    show_default=True,
    metavar="N",
    help="At most so many at once.",
)
@click.option(
    "--request-timeout",
    type=options.Amount(0.001, 1e6),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="Wait for an answer at most.",
)
@options.calling
def bench(
    name: str,
    data: str | None,
    file_path: BinaryIO | None,
    header: tuple[str, ...],
    rate: float,
    seconds: float,
    max_in_flight: int,
    request_timeout: float,
    inference_host: str,
    inference_mode: str,
    authority: str,
) -> None:
    """Send load to a model or a pipeline, and show how long its answers took.

    NAME is a model, or a pipeline where no model has that name; NAME.pipeline and NAME.experiment say which. DATA is a
    V2 request as for `infer`; without one it is made from what the model tells of its inputs, filled with ones.

    Requests are sent at their times whether or not those before are answered, and how long one took is counted from
    when it was due: what stalls is seen in full. Exit code 1 when any failed. Ctrl-C ends early.

    \b
    Example:
      seldon bench tfsimples --rate 200 --seconds 30
      seldon bench iris -f request.json --inference-mode grpc
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    if data is not None and file_path is not None:
        raise click.UsageError("give the request as an argument or by -f, not both")
    headers = [doors.header(text) for text in header]
    body = file_path.read() if file_path is not None else data.encode() if data is not None else None
    call = _ready(doors.Call(name, name, inference_host, authority, b"{}" if body is None else body), made=body is None)
    load = _Load(call, inference_mode, headers, Schedule(rate, seconds, max_in_flight), request_timeout)
    _report(load)


def _report(load: _Load) -> None:
    # Before anything is said: it refuses what cannot be sent.
    sender, out = _sender(load), Console(highlight=False)
    by, schedule = "gRPC" if load.mode == "grpc" else "REST", load.schedule
    click.echo(f"{load.call.route} at {load.call.host} by {by}, {schedule.rate:,.10g}/s for {schedule.seconds:,.10g} s")
    cpu, outcome = time.process_time(), Outcome()
    asyncio.run(_send(sender, schedule, outcome))
    cpu = time.process_time() - cpu
    out.print(benched.report(outcome, cpu), soft_wrap=True)
    if failed := outcome.failed.total():
        raise EngineError(f"{failed:,} of {outcome.done:,} requests failed")


async def _send(sender: Sender, schedule: Schedule, outcome: Outcome) -> None:
    """Apply the load; a signal ends it early, and a second one at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, end)
    async with sender:
        applying = asyncio.create_task(apply(schedule, sender.send, time.perf_counter, outcome, stop))
        with _bar(schedule, outcome) as bar:
            while not applying.done():
                bar.draw()
                await asyncio.wait((applying,), timeout=_DRAW_SECONDS)
        await applying


@contextlib.contextmanager
def _bar(schedule: Schedule, outcome: Outcome) -> Iterator[benched.Bar]:
    bar = benched.Bar(schedule, outcome, Console(stderr=True, highlight=False))
    try:
        yield bar
    finally:
        bar.stop()


def _sender(load: _Load) -> Sender:
    from engine.cli.senders import GrpcSender, RestSender

    made = GrpcSender if load.mode == "grpc" else RestSender
    return made(load.call, load.headers, load.timeout)


def _ready(call: Call, *, made: bool) -> Call:
    """The call with its route, and with a request that is `made` of what is told of its inputs."""
    route, reply = _known(call)
    if not made:
        return replace(call, route=route)
    from engine.protocol.metadata import decode_metadata, example

    try:
        request = example(decode_metadata(reply.text.encode()))
    except InvalidInput as error:
        raise click.UsageError(f"{error}; give a request as an argument or by -f") from None
    return replace(call, route=route, data=json.dumps(request).encode())


def _known(call: Call) -> tuple[str, Reply]:
    """Which route has the name, and the metadata of what is there."""
    from engine.cli.rest_door import Rest

    # Names have no dots: with one it says itself what it is the name of.
    routes = (call.route,) if "." in call.name else (call.route, f"{call.name}.pipeline")
    replies = []
    for route in routes:
        with closing(Rest(replace(call, route=route))) as door:
            replies.append(door.metadata())
        if not replies[-1].code:
            return route, replies[-1]
        if replies[-1].code != http.HTTPStatus.NOT_FOUND:
            break
    raise EngineError("; ".join(reply.text for reply in replies))
