"""The gateway's two protocols as `bench` calls them: one request, sent again and again, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import quote

import aiohttp
import grpc

from engine.cli import grpc_door, rest_door
from engine.cli.load import Failure

if TYPE_CHECKING:
    from engine.cli.doors import Call, Pairs

_OK = 200

# How a request counts that never came to a status.
NO_ANSWER, NO_CONNECTION = "no answer", "no connection"


class Sender(Protocol):
    """Sends one request at a time or many."""

    async def __aenter__(self) -> Self:
        """Get ready to connect."""

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""

    async def send(self) -> Failure | None:
        """Send the request; None when it was answered."""


class RestSender:
    """By HTTP/1, over as many connections as are in use at once."""

    def __init__(self, call: Call, headers: Pairs, seconds: float) -> None:
        self._url = f"http://{call.host}/v2/models/{quote(call.name, safe='')}/infer"
        own = [("Content-Type", "application/json"), ("seldon-model", call.route)]
        host = [("Host", call.authority)] if call.authority else []
        self._data, self._headers = call.data, [*own, *host, *headers]
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        """Get ready to connect."""
        self._session = aiohttp.ClientSession(
            # How many are in flight is the schedule's matter.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self) -> Failure | None:
        """POST the request, and read the answer to its end."""
        try:
            async with self._session.post(self._url, data=self._data, headers=self._headers) as response:
                body = await response.read()
        except TimeoutError:
            return _no_answer(self._seconds)
        except (aiohttp.ClientError, OSError) as error:
            return Failure(NO_CONNECTION, str(error) or type(error).__name__)
        if response.status == _OK:
            return None
        return Failure(str(response.status), rest_door.error_text(response.status, body))


class GrpcSender:
    """By gRPC, over one connection."""

    def __init__(self, call: Call, headers: Pairs, seconds: float) -> None:
        self._data = grpc_door.message_of(call).SerializeToString()
        self._metadata = (("seldon-model", call.route), *((name.lower(), value) for name, value in headers))
        self._call, self._seconds = call, seconds

    async def __aenter__(self) -> Self:
        """Get ready to connect."""
        authority = (("grpc.default_authority", self._call.authority),) if self._call.authority else ()
        self._channel = grpc.aio.insecure_channel(self._call.host, options=(*grpc_door.OPTIONS, *authority))
        # As bytes both ways: the request is written once, and nobody reads the answer.
        self._infer = self._channel.unary_unary(grpc_door.PATH)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._channel.close()

    async def send(self) -> Failure | None:
        """Call ModelInfer."""
        try:
            await self._infer(self._data, metadata=self._metadata, timeout=self._seconds)
        except grpc.aio.AioRpcError as error:
            return Failure(error.code().name, error.details() or "")
        return None


def _no_answer(seconds: float) -> Failure:
    return Failure(NO_ANSWER, f"none within {seconds:g} s")
