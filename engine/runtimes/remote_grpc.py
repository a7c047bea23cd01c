"""How a remote V2 server is reached over gRPC."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.protocol.messages import (
    SERVICE,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from engine.protocol.record import TRACE_CONTEXT
from engine.protocol.routes import ROUTE
from engine.runtimes.remote import READY_TIMEOUT, Closed, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.protocol.record import HeaderPairs, Headers


class GrpcTransport:
    """One channel to a server; requests leave as the bytes that they are."""

    def __init__(self, server: Server, *, max_message_bytes: int) -> None:
        self._server, self._max_message_bytes = server, max_message_bytes
        self._channel: Any = None

    async def open(self) -> None:
        """Open the channel; whether the server answers is for `ready` to say."""
        options = [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", self._max_message_bytes),
            ("grpc.keepalive_time_ms", 30_000),
            # The default back-off grows to two minutes; a model server that is back should be used at once.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        address = self._server.address
        if self._server.secure:
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.aio.insecure_channel(address, options)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def close(self) -> None:
        """Close the channel; calls that are out are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def ready(self) -> bool:
        """As the server says."""
        try:
            answer = await self._ask("ModelReady", ModelReadyRequest(name=self._server.model), ModelReadyResponse)
        except (RequestError, Closed):
            return False
        return bool(answer.ready)

    async def metadata(self) -> Any:
        """As the server says."""
        return await self._ask("ModelMetadata", ModelMetadataRequest(name=self._server.model), ModelMetadataResponse)

    async def server_name(self) -> str:
        """As the server says."""
        return str((await self._ask("ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse)).name)

    async def _ask(self, method: str, request: Any, answer: Any) -> Any:
        with self._failures():
            ask = self._channel.unary_unary(f"/{SERVICE}/{method}", type(request).SerializeToString, answer.FromString)
            return await ask(request, timeout=READY_TIMEOUT)

    async def infer(self, value: bytes, headers: HeaderPairs, timeout: float) -> tuple[bytes, Headers]:
        """One call."""
        with self._failures():
            call = self._infer(value, timeout=timeout, metadata=_metadata(headers))
            return await call, await _added(call)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """A call's failure as one of ours; Closed when the channel is closed before it or while it is out."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            # A channel that closes cancels its calls, which looks as if the caller had.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Closed from None

    def _error(self, error: Any) -> RequestError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE:
            return self._server.out_of_reach(details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._server.late()
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details or ""):
            return self._server.too_large(details)
        refused = code is grpc.StatusCode.INVALID_ARGUMENT
        return (InvalidInput if refused else ModelFailed)(details or code.name)


# What tells a message that is too large from a server that has too much to do: gRPC has one status for both.
_TOO_LARGE = re.compile("larger than max|exceeds maximum", re.IGNORECASE)


async def _added(call: Any) -> Headers:
    """The X- headers of an answer."""
    pairs = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
    return tuple(
        (name, text.encode() if isinstance(text, str) else bytes(text))
        for name, text in pairs
        if name.startswith("x-") and name != ROUTE
    )


# What gRPC can carry: lower-case names, and values of printable ASCII unless the name says that they are binary.
_NAME = re.compile("|".join(("x-[0-9a-z_.-]+", *TRACE_CONTEXT)))
_PRINTABLE = re.compile(b"[ -~]*")


def _metadata(headers: HeaderPairs) -> tuple[tuple[str, str | bytes], ...]:
    """A request's X- headers and trace context; one that gRPC cannot carry must not fail the call.

    Routes are ours: a server that splits calls itself would take them for its own.
    """
    found: list[tuple[str, str | bytes]] = []
    for written, value in headers:
        name = written.lower()
        if value is None or name == ROUTE or not _NAME.fullmatch(name):
            continue
        if name.endswith("-bin"):
            found.append((name, value))
        elif _PRINTABLE.fullmatch(value):
            found.append((name, value.decode("ascii")))
    return tuple(found)
