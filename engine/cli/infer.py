"""`infer` for models and pipelines, `metadata` for models: call the gateway by REST or gRPC, print what it says."""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from engine.cli import doors, options, routes
from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from engine.cli.doors import Call, Door, Pairs
    from engine.cli.routes import Session

_repeating = options.together(
    click.option(
        "-i",
        "--iterations",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Call so often.",
    ),
    click.option("-t", "--seconds", type=click.FloatRange(min=0), default=0, help="Call again for so long."),
    click.option("-s", "--sticky-session", is_flag=True, help="Take the route of the last answer again."),
)

_showing = options.together(
    click.option("--show-headers", is_flag=True, help="Show the headers of request and answer."),
    click.option("-r", "--show-request", is_flag=True, help="Show the request."),
    click.option("-o", "--show-response/--no-show-response", default=True, help="Show the answer. [default: true]"),
)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What of one call is printed."""

    show_headers: bool
    show_request: bool
    show_response: bool


def _inferring(kind: str, suffix: str) -> click.Command:
    @click.command("infer", help=_help(kind))
    @click.argument("name")
    @click.argument("data", required=False)
    @click.option("-f", "--file-path", type=click.File("rb"), help="A file that holds the request.")
    @click.option("--header", "header", multiple=True, metavar="KEY=VAL", help="Send a header; may be repeated.")
    @options.calling
    @_repeating
    @_showing
    def command(
        name: str,
        data: str | None,
        file_path: BinaryIO | None,
        header: tuple[str, ...],
        inference_host: str,
        inference_mode: str,
        authority: str,
        iterations: int,
        seconds: float,
        *,
        sticky_session: bool,
        **shown: bool,
    ) -> None:
        if (data is None) == (file_path is None):
            raise click.UsageError("give the request as an argument, or a file that holds it by -f")
        body = file_path.read() if file_path is not None else (data or "").encode()
        headers = [doors.header(text) for text in header]
        # Names have no dots: with one it says itself what it is the name of, as NAME.experiment does.
        route = name if "." in name else f"{name}{suffix}"
        call = doors.Call(name, route, inference_host, authority, body)
        session = routes.session() if sticky_session else None
        with closing(_door(call, inference_mode)) as door:
            if iterations > 1 or seconds:
                _many(door, headers, session, iterations, seconds)
            else:
                _once(door, headers, session, _Shown(**shown))

    return command


def _help(kind: str) -> str:
    example = "seldon pipeline infer tfsimples" if kind == "pipeline" else "seldon model infer iris"
    return (
        f"Call a {kind} and print its answer.\n\n"
        "DATA is a V2 request: JSON as by REST; with --inference-mode grpc also a ModelInferRequest in "
        "protobuf's JSON.\n\n"
        f"\b\nExample:\n  {example} -f request.json\n  {example} --show-headers --header X-foo=bar '{{...}}'"
    )


@click.command("metadata")
@click.argument("name")
@options.inference_host
@options.authority
def model_metadata(name: str, inference_host: str, authority: str) -> None:
    """Show what is known of a model's tensors, as JSON.

    \b
    Example:
      seldon model metadata iris
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine.cli.rest_door import Rest

    with closing(Rest(doors.Call(name, name, inference_host, authority, b"{}"))) as door:
        reply = door.metadata()
    if reply.code:
        raise EngineError(reply.text)
    click.echo(reply.text)


model_infer, pipeline_infer = _inferring("model", ""), _inferring("pipeline", ".pipeline")


def _door(call: Call, mode: str) -> Door:
    # Each is slow to import, and of no use to the other commands.
    if mode == "grpc":
        from engine.cli.grpc_door import Grpc

        return Grpc(call)
    from engine.cli.rest_door import Rest

    return Rest(call)


def _once(door: Door, headers: Pairs, session: Session | None, shown: _Shown) -> None:
    if session is not None:
        headers = [*headers, *session.headers()]
    if shown.show_headers:
        _print(door.sent(headers))
    if shown.show_request:
        click.echo(door.request())
    reply = door.call(headers)
    if shown.show_headers:
        _print(door.received(reply))
    if session is not None:
        session.keep(reply)
    if reply.code:
        raise EngineError(reply.text)
    if shown.show_response:
        click.echo(reply.text)


def _many(door: Door, headers: Pairs, session: Session | None, iterations: int, seconds: float) -> None:
    """Call again and again, for `seconds` when they are given; EngineError when a call failed.

    Ctrl-C ends it early, as it does `bench`: with what has been counted.
    """
    counts, last = routes.Counts(), None
    until = time.monotonic() + seconds
    done: Callable[[int], bool] = (
        (lambda _: time.monotonic() >= until) if seconds else (lambda number: number >= iterations)
    )
    number = 0
    with contextlib.suppress(KeyboardInterrupt):
        while not done(number):
            reply = door.call([*headers, *session.headers()] if session is not None else headers)
            if session is not None:
                session.keep(reply)
            counts.count(reply)
            last = reply.text if reply.code else last
            number += 1
    _print(counts.lines())
    if last is not None:
        raise EngineError(f"{counts.failed} of {number} calls failed, the last with: {last}")


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
