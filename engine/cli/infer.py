"""`infer` for models and pipelines, `metadata` for models: call the gateway by REST or gRPC, print what it says."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import click

from engine.cli import configs
from engine.errors import EngineError
from engine.settings import host_and_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import BinaryIO

Pairs = list[tuple[str, str]]

ROUTE = "x-seldon-route"

# The gateway ends every call by its own deadline; this only ends a call to something that is no gateway.
ANSWER_SECONDS = 600.0

_OK = 200

_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")
# What both HTTP/1 and gRPC can carry.
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one call: its headers, and the answer's text or the error with its code.

    text      the answer as it is printed
    code      0 for an answer; otherwise the HTTP status, or the number of the gRPC status
    """

    headers: Pairs
    trailers: Pairs
    text: str
    code: int = 0


class Door(Protocol):
    """One of the gateway's two protocols; calls use one connection."""

    def call(self, headers: Pairs) -> Reply:
        """Send the request with these headers beside its own."""

    def sent(self, headers: Pairs) -> list[str]:
        """The lines that --show-headers prints of the request."""

    def received(self, reply: Reply) -> list[str]:
        """The lines that --show-headers prints of an answer."""

    def request(self) -> str:
        """The request as --show-request prints it."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a command line asks to be called.

    route       the value of the header `seldon-model`
    authority   what is sent as the host's name; empty: the host itself
    """

    name: str
    route: str
    host: str
    authority: str
    data: bytes

    def __post_init__(self) -> None:
        for text in (self.name, self.authority):
            if not _HEADER_VALUE.fullmatch(text):
                raise click.UsageError(f"{text!a} cannot be sent in a header; write printable ASCII")


class Rest:
    """Calls by HTTP/1."""

    def __init__(self, call: Call) -> None:
        import http.client

        self._call = call
        self._model = f"/v2/models/{quote(call.name, safe='')}"
        self._path = f"{self._model}/infer"
        host, port = host_and_port(call.host, "--inference-host")
        self._connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)

    def call(self, headers: Pairs) -> Reply:
        """POST the request; what is no answer has its text from the error object, or from the whole body."""
        return self._exchange("POST", self._path, [*self._own(), *headers], self._call.data)

    def metadata(self) -> Reply:
        """GET what is known of the model."""
        return self._exchange("GET", self._model, [("seldon-model", self._call.route)], b"")

    def sent(self, headers: Pairs) -> list[str]:
        """The request line, the host, and the headers as HTTP writes their names."""
        lines = [f"> POST {self._path} HTTP/1.1", f"> Host: {self._call.authority or self._call.host}"]
        return [*lines, *_header_lines(">", _canonical([*self._own(), *headers])), ""]

    def received(self, reply: Reply) -> list[str]:
        """The headers of the response."""
        return [*_header_lines("<", _canonical(reply.headers)), ""]

    def request(self) -> str:
        """The JSON as it is sent, indented."""
        return indented(self._call.data)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _own(self) -> Pairs:
        return [("content-type", "application/json"), ("seldon-model", self._call.route)]

    def _exchange(self, method: str, path: str, headers: Pairs, body: bytes) -> Reply:
        import http.client

        connection = self._connection
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", self._call.authority or self._call.host)
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            # A gateway that refuses a body for its size answers before it has read it all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(body)
            response = connection.getresponse()
            content, returned = response.read(), response.getheaders()
        except http.client.RemoteDisconnected:
            raise EngineError(f"the gateway at {self._call.host} closed the connection without an answer") from None
        except http.client.HTTPException as error:
            raise EngineError(f"{self._call.host} does not speak HTTP as a gateway does: {error!r}") from None
        except TimeoutError:
            raise EngineError(f"{self._call.host} gave no answer within {ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise _no_gateway(self._call.host, error.strerror or str(error)) from None
        if response.status == _OK:
            return Reply(returned, [], indented(content))
        return Reply(returned, [], _rest_error(response.status, content), response.status)


class Grpc:
    """Calls by gRPC."""

    def __init__(self, call: Call) -> None:
        import grpc

        from engine.protocol.messages import SERVICE, ModelInferResponse

        host_and_port(call.host, "--inference-host")
        self._call, self._message = call, _grpc_request(call)
        self._path = f"/{SERVICE}/ModelInfer"
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # A proxy for the web is none for a host that is named here.
            ("grpc.enable_http_proxy", 0),
        ]
        if call.authority:
            options.append(("grpc.default_authority", call.authority))
        self._channel = grpc.insecure_channel(call.host, options=options)
        self._infer = self._channel.unary_unary(
            self._path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ModelInferResponse.FromString,
        )

    def call(self, headers: Pairs) -> Reply:
        """Call ModelInfer; the answer is one line of protobuf's JSON, its raw contents typed."""
        import grpc

        try:
            message, call = self._infer.with_call(
                self._message, metadata=tuple(self._metadata(headers)), timeout=ANSWER_SECONDS
            )
        except grpc.RpcError as error:
            failed: Any = error
            returned, trailers = _text_pairs(failed.initial_metadata()), _text_pairs(failed.trailing_metadata())
            ours = any(name == "x-request-id" for name, _ in (*returned, *trailers))
            # Without a request id it was gRPC on this side that spoke, and not the gateway.
            if failed.code() is grpc.StatusCode.UNAVAILABLE and not ours:
                raise _no_gateway(self._call.host, failed.details()) from None
            return Reply(returned, trailers, failed.details() or failed.code().name, failed.code().value[0])
        return Reply(
            _text_pairs(call.initial_metadata()), _text_pairs(call.trailing_metadata()), _protojson(_typed(message))
        )

    def sent(self, headers: Pairs) -> list[str]:
        """The method, the host, and the metadata."""
        lines = [f"> {self._path} HTTP/2", f"> Host: {self._call.authority or self._call.host}"]
        return [*lines, *_header_lines(">", self._metadata(headers)), ""]

    def received(self, reply: Reply) -> list[str]:
        """The metadata of the response, that before the answer and that behind it."""
        return [*_header_lines("<", reply.headers), *_header_lines("<<", reply.trailers), ""]

    def request(self) -> str:
        """The message as one line of protobuf's JSON."""
        from engine.protocol.messages import ModelInferRequest

        shown = ModelInferRequest()
        shown.CopyFrom(self._message)
        return _protojson(_typed(shown))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _metadata(self, headers: Pairs) -> Pairs:
        return [("seldon-model", self._call.route), *((name.lower(), value) for name, value in headers)]


@dataclass(slots=True)
class Counts:
    """How many calls were answered and how many failed, by each of those that their routes name."""

    success: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    failed: int = 0

    def count(self, reply: Reply) -> None:
        """Count one call."""
        found = routes(reply) or [""]
        self.failed += bool(reply.code)
        for route in found:
            if reply.code:
                self.errors[route][reply.code] += 1
            else:
                self.success[route] += 1

    def lines(self) -> list[str]:
        """As Go prints maps: keys in order."""
        lines = [f"Success: {_map(self.success)}"]
        if self.errors:
            lines.append(f"Errors: {_map({route: _map(codes) for route, codes in self.errors.items()})}")
        return lines


def _map(counts: Any) -> str:
    return f"map[{' '.join(f'{key}:{counts[key]}' for key in sorted(counts))}]"


def routes(reply: Reply) -> list[str]:
    """The routes that an answer says it took."""
    return [value for name, value in (*reply.headers, *reply.trailers) if name.lower() == ROUTE]


class Session:
    """The session file: the routes of the last answer, resent so that the next call takes the same."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def headers(self) -> Pairs:
        """A header for each route; none before the first answer."""
        if not self._path.is_file():
            return []
        return [(ROUTE, route) for route in self._path.read_text(encoding="utf-8").strip().split(",") if route]

    def keep(self, reply: Reply) -> None:
        """Write the routes of an answer, when it names any."""
        if found := routes(reply):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(",".join(found), encoding="utf-8")


def session_path() -> Path:
    """Where the reference keeps its session, beside its configs."""
    return configs.folder() / "session"


class _GoFlags(click.Command):
    """Takes `--flag=false` and `-o=true`, as scripts for the reference write them, which click does not know."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {
            name: option
            for option in self.params
            if isinstance(option, click.Option) and option.is_flag
            for name in option.opts
        }
        read: list[str] = []
        for arg in args:
            name, _, value = arg.partition("=")
            if name not in flags or value not in ("true", "false"):
                read.append(arg)
            elif value == "true":
                read.append(name)
            elif flags[name].secondary_opts:
                read.append(flags[name].secondary_opts[0])
        return super().parse_args(ctx, read)


_host = click.option(
    "--inference-host",
    envvar="SELDON_INFER_HOST",
    # The reference's; calling it reaches this machine.
    default=lambda: configs.active().infer_host or "0.0.0.0:9000",
    show_default="0.0.0.0:9000",
    metavar="HOST:PORT",
    help="The gateway.",
)
_authority = click.option("--authority", default="", metavar="NAME", help="Send this as the host's name.")


def _inferring(kind: str, suffix: str) -> click.Command:
    @click.command("infer", cls=_GoFlags, help=_help(kind))
    @click.argument("name")
    @click.argument("data", required=False)
    @click.option("-f", "--file-path", type=click.File("rb"), help="A file that holds the request.")
    @click.option("--header", "header", multiple=True, metavar="KEY=VAL", help="Send a header; may be repeated.")
    @_host
    @click.option("--inference-mode", type=click.Choice(("rest", "grpc")), default="rest", show_default=True)
    @click.option("-i", "--iterations", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
    @click.option("-t", "--seconds", type=click.FloatRange(min=0), default=0, help="Call again for so long.")
    @click.option("--show-headers", is_flag=True, help="Show the headers of request and answer.")
    @click.option("-r", "--show-request", is_flag=True, help="Show the request.")
    @click.option("-o", "--show-response/--no-show-response", default=True, help="Show the answer. [default: true]")
    @click.option("-s", "--sticky-session", is_flag=True, help="Take the route of the last answer again.")
    @_authority
    def command(
        name: str,
        data: str | None,
        file_path: BinaryIO | None,
        header: tuple[str, ...],
        inference_host: str,
        inference_mode: str,
        iterations: int,
        seconds: float,
        authority: str,
        *,
        show_headers: bool,
        show_request: bool,
        show_response: bool,
        sticky_session: bool,
    ) -> None:
        if (data is None) == (file_path is None):
            raise click.UsageError("give the request as an argument, or a file that holds it by -f")
        body = file_path.read() if file_path is not None else (data or "").encode()
        headers = [_header(text) for text in header]
        call = Call(name, f"{name}{suffix}", inference_host, authority, body)
        door: Door = Rest(call) if inference_mode == "rest" else Grpc(call)
        session = Session(session_path()) if sticky_session else None
        try:
            if iterations > 1 or seconds:
                _many(door, headers, session, iterations, seconds)
            else:
                _once(
                    door,
                    headers,
                    session,
                    show_headers=show_headers,
                    show_request=show_request,
                    show_response=show_response,
                )
        finally:
            door.close()

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
@_host
@_authority
def model_metadata(name: str, inference_host: str, authority: str) -> None:
    """Show what is known of a model's tensors, as JSON.

    \b
    Example:
      seldon model metadata iris
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    door = Rest(Call(name, name, inference_host, authority, b""))
    try:
        reply = door.metadata()
    finally:
        door.close()
    if reply.code:
        raise EngineError(reply.text)
    click.echo(reply.text)


model_infer, pipeline_infer = _inferring("model", ""), _inferring("pipeline", ".pipeline")


def _header(text: str) -> tuple[str, str]:
    """The two parts of a --header."""
    name, _, value = text.partition("=")
    if text.count("=") != 1 or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise click.UsageError(f"Badly formed header {text}: use key=val")
    if name.lower() == "host":
        raise click.UsageError("Setting Host via headers is not supported, please use '--authority' instead")
    return name, value


def _once(
    door: Door,
    headers: Pairs,
    session: Session | None,
    *,
    show_headers: bool,
    show_request: bool,
    show_response: bool,
) -> None:
    if session is not None:
        headers = [*headers, *session.headers()]
    if show_headers:
        _print(door.sent(headers))
    if show_request:
        click.echo(door.request())
    reply = door.call(headers)
    if show_headers:
        _print(door.received(reply))
    if session is not None:
        session.keep(reply)
    if reply.code:
        raise EngineError(reply.text)
    if show_response:
        click.echo(reply.text)


def _many(door: Door, headers: Pairs, session: Session | None, iterations: int, seconds: float) -> None:
    """Call again and again, for `seconds` when they are given; EngineError when a call failed."""
    counts, last = Counts(), None
    until = time.monotonic() + seconds
    done: Callable[[int], bool] = (
        (lambda _: time.monotonic() >= until) if seconds else (lambda number: number >= iterations)
    )
    number = 0
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


def _header_lines(mark: str, pairs: Pairs) -> list[str]:
    """`> Name:[v1 v2]`, a line for each name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return [f"{mark} {name}:[{' '.join(values)}]" for name, values in found.items()]


def _canonical(pairs: Pairs) -> Pairs:
    return [("-".join(part.capitalize() for part in name.split("-")), value) for name, value in pairs]


def _text_pairs(metadata: Any) -> Pairs:
    return [
        (name, value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
        for name, value in metadata or ()
    ]


def indented(body: bytes) -> str:
    """JSON with tabs; what is no JSON as it came."""
    try:
        return json.dumps(json.loads(body), indent="\t", ensure_ascii=False)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def _rest_error(status: int, body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return f"V2 server error: {status} {body.decode('utf-8', 'backslashreplace')}"


def _no_gateway(host: str, reason: str | None) -> EngineError:
    return EngineError(
        f"no gateway answers at {host} ({reason or 'no reason given'}); "
        "start it by `seldon up`, or name another by --inference-host"
    )


def _grpc_request(call: Call) -> Any:
    """The request as a message: from a REST body, whose tensors have "data", or from protobuf's own JSON."""
    from google.protobuf import json_format

    from engine.protocol import rest_json
    from engine.protocol.messages import ModelInferRequest

    try:
        document = json.loads(call.data)
        if not isinstance(document, dict):
            raise click.UsageError("the request is no ModelInferRequest in JSON: it is no object")
        if _is_rest(document):
            message = rest_json.decode_request(call.data)
        else:
            message = json_format.ParseDict(document, ModelInferRequest())
    except (ValueError, TypeError, json_format.ParseError) as error:
        raise click.UsageError(f"the request is no ModelInferRequest in JSON: {error}") from None
    message.model_name = call.name
    return message


def _is_rest(document: dict[str, Any]) -> bool:
    inputs = document.get("inputs")
    return isinstance(inputs, list) and any(isinstance(entry, dict) and "data" in entry for entry in inputs)


def _typed(message: Any) -> Any:
    """A message with its raw contents typed, where they can be."""
    from engine.errors import InvalidInput
    from engine.protocol import columns
    from engine.protocol.messages import ModelInferRequest

    untouched = type(message)()
    untouched.CopyFrom(message)
    try:
        columns.to_typed(message, columns.REQUEST if isinstance(message, ModelInferRequest) else columns.RESPONSE)
    except (InvalidInput, ValueError):
        return untouched
    return message


def _protojson(message: Any) -> str:
    from google.protobuf import json_format

    return json.dumps(json_format.MessageToDict(message), ensure_ascii=False, separators=(",", ":"))
