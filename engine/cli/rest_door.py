"""Calls by HTTP/1: the JSON is sent as it was given, the answer printed with tabs."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
from urllib.parse import quote

import click

from engine.cli import doors
from engine.cli.doors import ANSWER_SECONDS, Call, Pairs, Reply
from engine.errors import EngineError
from engine.settings import host_and_port

# A model may take minutes, but a gateway says at once that it lives. Another broker's port, say, never says anything.
LOOK_SECONDS = 5.0


class Rest:
    """One connection to a gateway by HTTP/1.

    Raises InvalidSettings for what is no address, UsageError for a request that is no JSON.
    """

    def __init__(self, call: Call) -> None:
        _refuse_no_json(call.data)
        self._call = call
        self._model = f"/v2/models/{quote(call.name, safe='')}"
        self._path = f"{self._model}/infer"
        self._address = host_and_port(call.host, "--inference-host")
        self._connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_SECONDS)

    def call(self, headers: Pairs) -> Reply:
        """POST the request; what is no answer has its text from the error object, or from the whole body.

        Raises EngineError when there is no gateway, or what answers is none.
        """
        return self._exchange("POST", self._path, [*self._own(), *headers], self._call.data)

    def metadata(self) -> Reply:
        """GET what is known of the model; raises as `call` does."""
        return self._exchange("GET", self._model, [("seldon-model", self._call.route)], b"")

    def sent(self, headers: Pairs) -> list[str]:
        """The request line, the host, and the headers as HTTP writes their names."""
        lines = [f"> POST {self._path} HTTP/1.1", f"> Host: {self._call.authority or self._call.host}"]
        return [*lines, *doors.header_lines(">", _canonical([*self._own(), *headers])), ""]

    def received(self, reply: Reply) -> list[str]:
        """The headers of the response."""
        return [*doors.header_lines("<", _canonical(reply.headers)), ""]

    def request(self) -> str:
        """The JSON as it is sent, indented."""
        return indented(self._call.data)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _own(self) -> Pairs:
        return [("content-type", "application/json"), ("seldon-model", self._call.route)]

    def _exchange(self, method: str, path: str, headers: Pairs, body: bytes) -> Reply:
        host = self._call.host
        try:
            self._send(method, path, headers, body)
            self._look()
            response = self._connection.getresponse()
            content, returned = response.read(), response.getheaders()
        except http.client.RemoteDisconnected:
            raise EngineError(f"the gateway at {host} closed the connection without an answer") from None
        except http.client.HTTPException as error:
            raise EngineError(f"{host} does not speak HTTP as a gateway does: {error!r}") from None
        except TimeoutError:
            raise EngineError(f"{host} gave no answer within {ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise doors.no_gateway(host, error.strerror or str(error)) from None
        if response.status == http.client.OK:
            return Reply(returned, [], indented(content))
        return Reply(returned, [], error_text(response.status, content), response.status)

    def _look(self) -> None:
        """Wait for an answer to begin; what says nothing for long is asked whether it is a gateway at all."""
        connected = self._connection.sock
        if connected is None:
            return  # it was reset at once, and is told of as such
        begun, _, _ = select.select([connected], [], [], LOOK_SECONDS)
        if not begun and not self._lives():
            host = self._call.host
            raise EngineError(f"no gateway answers at {host}: it says nothing; name another by --inference-host")

    def _lives(self) -> bool:
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=LOOK_SECONDS)) as connection:
            try:
                connection.request("GET", "/v2/health/live")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                return False
        return True

    def _send(self, method: str, path: str, headers: Pairs, body: bytes) -> None:
        connection = self._connection
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", self._call.authority or self._call.host)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        # A gateway that refuses a body for its size answers before it has read it all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body)


def _refuse_no_json(data: bytes) -> None:
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the request is no JSON: {error}") from None


def indented(body: bytes) -> str:
    """JSON with tabs; what is no JSON as it came."""
    try:
        return json.dumps(json.loads(body), indent="\t", ensure_ascii=False)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def error_text(status: int, body: bytes) -> str:
    """What an answer that is none says: the text of its error object, or all of it with the status."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return f"V2 server error: {status} {body.decode('utf-8', 'backslashreplace')}"


def _canonical(pairs: Pairs) -> Pairs:
    return [("-".join(part.capitalize() for part in name.split("-")), value) for name, value in pairs]
