"""A model behind a remote V2 server, over gRPC: `grpc://HOST:PORT[/NAME]`, `grpcs://…`.

Requests leave as spliced bytes and answers are decoded in columns, so no message is built for either. Each row is a
call of its own with its caller's X- headers and deadline; answers go on as they come.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from engine.errors import InvalidInput, ModelFailed, RequestError, RuntimeUnavailable, TimedOut, Unreachable
from engine.protocol import columns as col
from engine.protocol.messages import (
    SERVICE,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
)
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs, Headers

# Calls of one model that are out at once in this process; more would only queue in the server.
MAX_CALLS = 128

# A refused connection is tried again, as a server that restarts is back within moments; the last wait is the longest.
RETRY_WAITS = (0.05, 0.2, 0.8)

# What a server must answer a readiness question in before it counts as not ready.
READY_TIMEOUT = 2.0

_ERRORS: dict[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
}


class RemoteRuntime:
    """A model of a V2 server that is reached over gRPC."""

    def __init__(self, name: str, uri: str, *, max_message_bytes: int) -> None:
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port:
            raise RuntimeUnavailable(name, f'"{uri}" is not of the form grpc://HOST:PORT[/NAME]')
        self.name, self.uri = name, uri
        self.remote_name = parts.path.strip("/") or name
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._secure = parts.scheme == "grpcs"
        self._max_message_bytes = max_message_bytes
        self._channel: Any = None
        self._calls = asyncio.Semaphore(MAX_CALLS)

    async def load(self) -> None:
        """Open the channel; whether the server answers is for `ready` to say."""
        options = [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", self._max_message_bytes),
            ("grpc.keepalive_time_ms", 30_000),
            # The default back-off grows to two minutes; a model server that is back should be used at once.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        if self._secure:
            self._channel = grpc.aio.secure_channel(self._address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.aio.insecure_channel(self._address, options)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def unload(self) -> None:
        """Close the channel; calls that are out are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def ready(self) -> bool:
        """Whether the server answers that the model is ready."""
        ask = self._channel.unary_unary(
            f"/{SERVICE}/ModelReady", ModelReadyRequest.SerializeToString, ModelReadyResponse.FromString
        )
        try:
            answer = await ask(ModelReadyRequest(name=self.remote_name), timeout=READY_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def metadata(self) -> Any:
        """The server's own metadata of the model, under our name for it."""
        ask = self._channel.unary_unary(
            f"/{SERVICE}/ModelMetadata",
            ModelMetadataRequest.SerializeToString,
            ModelMetadataResponse.FromString,
        )
        try:
            answer = await ask(ModelMetadataRequest(name=self.remote_name), timeout=READY_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        answer.name = self.name
        return answer

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """One call for each row; rows whose answers come together go on together."""
        values = col.encode(columns, col.REQUEST, self.remote_name)
        pending = {
            asyncio.ensure_future(self._call(row, value, headers[row], timeout)) for row, value in enumerate(values)
        }
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for part in self._parts([call.result() for call in done], columns):
                    yield part
        finally:
            for call in pending:
                call.cancel()

    def _parts(self, answers: list[_Answer], columns: Columns) -> list[Part]:
        parts = [Part([row], outcome) for row, outcome, _ in answers if isinstance(outcome, RequestError)]
        good = [(row, outcome, added) for row, outcome, added in answers if not isinstance(outcome, RequestError)]
        groups, refused = col.decode([value for _, value, _ in good], col.RESPONSE)
        for index, error in refused:
            parts.append(Part([good[index][0]], ModelFailed(f'model "{self.name}" answered badly: {error.text}')))
        for indices, found in groups:
            rows = [good[index][0] for index in indices]
            added = [good[index][2] for index in indices]
            # The caller's id stays, whatever the server makes of it.
            kept = col.Columns([columns.ids[row] for row in rows], found.specs, found.cells, found.parameters)
            parts.append(Part(rows, kept, added if any(added) else None))
        return parts

    async def _call(self, row: int, value: bytes, headers: HeaderPairs, timeout: float) -> _Answer:
        clock = asyncio.get_running_loop().time
        metadata, deadline = _metadata(headers), clock() + timeout
        for wait in (*RETRY_WAITS, None):
            try:
                async with self._calls:
                    # Waiting for a turn takes from the row's time.
                    call = self._infer(value, timeout=max(deadline - clock(), 0.001), metadata=metadata)
                    answer = await call
                    return row, answer, await _added(call, headers)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or wait is None or deadline - clock() < wait:
                    return row, self._error(error), ()
                await asyncio.sleep(wait)
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return row, Unreachable(f'model "{self.name}" was unloaded while it was called'), ()
        raise AssertionError("the last try returns")

    def _error(self, error: Any) -> RequestError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE:
            return Unreachable(f'the server of model "{self.name}" at {self._address} is out of reach: {details}')
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(f'model "{self.name}" at {self._address} gave no answer in time')
        return _ERRORS.get(code, ModelFailed)(details or code.name)


_Answer = tuple[int, "bytes | RequestError", "Headers"]


async def _added(call: Any, sent: HeaderPairs) -> Headers:
    """The X- headers that the server's answer has and the request had not."""
    known = {name.lower() for name, _ in sent}
    pairs = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
    return tuple(
        (name, text.encode() if isinstance(text, str) else bytes(text))
        for name, text in pairs
        if name.startswith("x-") and name not in known
    )


# What gRPC can carry: lower-case names, and values of printable ASCII unless the name says that they are binary.
_NAME = re.compile("x-[0-9a-z_.-]+")
_PRINTABLE = re.compile(b"[ -~]*")


def _metadata(headers: HeaderPairs) -> tuple[tuple[str, str | bytes], ...]:
    """A request's X- headers as far as gRPC can carry them; one that it cannot must not fail the call."""
    found: list[tuple[str, str | bytes]] = []
    for written, value in headers:
        name = written.lower()
        if value is None or not _NAME.fullmatch(name):
            continue
        if name.endswith("-bin"):
            found.append((name, value))
        elif _PRINTABLE.fullmatch(value):
            found.append((name, value.decode("ascii")))
    return tuple(found)
