"""How a remote V2 server is reached over REST."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import orjson

from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.protocol import rest_json
from engine.protocol.messages import ModelInferRequest
from engine.protocol.metadata import decode_metadata
from engine.protocol.record import TRACE_CONTEXT
from engine.protocol.routes import ROUTE
from engine.runtimes.remote import MAX_CALLS, READY_TIMEOUT, Closed, Server

if TYPE_CHECKING:
    from engine.protocol.record import HeaderPairs, Headers

_OK, _BAD_REQUEST, _NOT_FOUND, _TIMED_OUT, _TOO_LARGE, _TOO_MANY, _FAULT = 200, 400, 404, 408, 413, 429, 500
_UNAVAILABLE, _GATEWAY_TIMEOUT = 503, 504

# How much of what a server says of a failure is passed on.
_QUOTED = 500

# What HTTP can carry.
_NAME = re.compile("|".join(("x-[0-9a-z_-]+", *TRACE_CONTEXT)))
_PRINTABLE = re.compile(b"[ -~]*")


class RestTransport:
    """Kept connections to a server."""

    def __init__(self, server: Server, *, max_message_bytes: int) -> None:
        self._server, self._max_message_bytes = server, max_message_bytes
        self._server_url = f"{server.scheme}://{server.address}/v2"
        self._url = f"{self._server_url}/models/{quote(server.model)}"
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready to connect; whether the server answers is for `ready` to say."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_CALLS))

    async def close(self) -> None:
        """Close all connections; calls that are out end."""
        if self._session is not None:
            await self._session.close()

    async def ready(self) -> bool:
        """As the server says."""
        try:
            status, _, _ = await self._ask("GET", f"{self._url}/ready", READY_TIMEOUT)
        except (RequestError, Closed):
            return False
        return status == _OK

    async def metadata(self) -> Any:
        """As the server says."""
        status, body, _ = await self._ask("GET", self._url, READY_TIMEOUT)
        if status != _OK:
            raise self._error(status, body)
        try:
            return decode_metadata(body)
        except InvalidInput as error:
            raise self._server.answered_badly(error.text) from None

    async def server_name(self) -> str:
        """As the server says."""
        status, body, _ = await self._ask("GET", self._server_url, READY_TIMEOUT)
        if status != _OK:
            raise self._error(status, body)
        try:
            return str(orjson.loads(body)["name"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise self._server.answered_badly(f"the server's metadata is none of V2: {error!r}") from None

    async def infer(self, value: bytes, headers: HeaderPairs, timeout: float) -> tuple[bytes, Headers]:
        """One call."""
        body = rest_json.encode_request(ModelInferRequest.FromString(value))
        sent = [("Content-Type", "application/json"), *_carried(headers)]
        status, answer, pairs = await self._ask("POST", f"{self._url}/infer", timeout, body, sent)
        if status != _OK:
            raise self._error(status, answer)
        try:
            message = rest_json.decode_response(answer, text=True)
        except InvalidInput as error:
            raise self._server.answered_badly(error.text) from None
        return bytes(message.SerializeToString()), pairs

    async def _ask(
        self,
        method: str,
        url: str,
        timeout: float,
        body: bytes | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> tuple[int, bytes, Headers]:
        """The status, the body and the X- headers of an answer. Redirects are not followed: they are no answer."""
        if self._session is None or self._session.closed:
            raise Closed
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                return answer.status, await self._read(answer), _added(answer)
        except TimeoutError:
            raise self._server.late() from None
        except aiohttp.ClientError as error:
            if self._session.closed:
                raise Closed from None
            raise self._server.out_of_reach(str(error) or type(error).__name__) from None

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        parts, left = [], self._max_message_bytes
        async for part in answer.content.iter_any():
            left -= len(part)
            if left < 0:
                raise self._server.too_large(f"it answered more than {self._max_message_bytes} bytes, the limit")
            parts.append(part)
        return b"".join(parts)

    def _error(self, status: int, body: bytes) -> RequestError:
        text = _said(body) or f"HTTP status {status}"
        if status in (_TOO_MANY, _UNAVAILABLE):
            return self._server.out_of_reach(text)
        if status in (_TIMED_OUT, _GATEWAY_TIMEOUT):
            return self._server.late()
        if status == _TOO_LARGE:
            return self._server.too_large(text)
        refused = _BAD_REQUEST <= status < _FAULT and status != _NOT_FOUND
        return (InvalidInput if refused else ModelFailed)(text)


def _said(body: bytes) -> str:
    """The words of a server's error: V2's `error`, or what other frameworks call it."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")[:_QUOTED]
    said = found.get("error") or found.get("detail") if isinstance(found, dict) else found
    return (said if isinstance(said, str) else orjson.dumps(said).decode() if said else "")[:_QUOTED]


def _added(answer: aiohttp.ClientResponse) -> Headers:
    """The X- headers of an answer."""
    pairs = ((name.decode("latin-1").lower(), value) for name, value in answer.raw_headers)
    return tuple((name, value) for name, value in pairs if name.startswith("x-") and name != ROUTE)


def _carried(headers: HeaderPairs) -> list[tuple[str, str]]:
    """A request's X- headers and trace context; one that HTTP cannot carry must not fail the call.

    Routes are ours: a server that splits calls itself would take them for its own.
    """
    pairs = ((name.lower(), value) for name, value in headers)
    return [
        (name, value.decode("ascii"))
        for name, value in pairs
        if value is not None and name != ROUTE and _NAME.fullmatch(name) and _PRINTABLE.fullmatch(value)
    ]
