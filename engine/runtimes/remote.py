"""A model behind a remote V2 server: `grpc://HOST:PORT[/NAME]`, `grpcs://…`, `http://…`, `https://…`.

Answers are decoded in columns, so no message is built for them, and over gRPC none for requests. Each row is a call of
its own with its caller's X- headers and deadline; answers go on as they come.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import unquote, urlsplit

from engine.errors import ModelFailed, RequestError, TimedOut, TooLarge, Unreachable
from engine.protocol import columns as col
from engine.runtimes.contract import Part
from engine.runtimes.declared import Declared

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

SCHEMES = ("grpc", "grpcs", "http", "https")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is: `name` is ours, `model` the server's name for it."""

    name: str
    scheme: str
    address: str
    model: str

    @classmethod
    def parse(cls, name: str, uri: str) -> Self | None:
        """The server of an URI; None when it names none."""
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or not port or parts.scheme not in SCHEMES:
            return None
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(name, parts.scheme, address, unquote(parts.path.strip("/")) or name)

    @property
    def secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.scheme in ("grpcs", "https")

    def out_of_reach(self, details: str) -> Unreachable:
        """The error of a call that did not come through."""
        return Unreachable(f'the server of model "{self.name}" at {self.address} is out of reach: {details}')

    def answered_badly(self, text: str) -> ModelFailed:
        """The error of a call whose answer is none of V2."""
        return ModelFailed(f'model "{self.name}" answered badly: {text}')

    def too_large(self, text: str) -> TooLarge:
        """The error of a call whose request or answer is larger than the other side takes."""
        return TooLarge(f'model "{self.name}" at {self.address}: {text}')

    def late(self) -> TimedOut:
        """The error of a call that took too long."""
        return TimedOut(f'model "{self.name}" at {self.address} gave no answer in time')

    def unloaded(self) -> Unreachable:
        """The error of a call of a model that has been unloaded."""
        return Unreachable(f'model "{self.name}" was unloaded while it was called')


class Closed(Exception):
    """The transport was closed while a call was out, or before it."""


class Transport(Protocol):
    """How a server is reached. Failures are RequestErrors; Unreachable ones are worth another try."""

    async def open(self) -> None:
        """Get ready to call."""

    async def close(self) -> None:
        """End; calls that are out raise Closed."""

    async def ready(self) -> bool:
        """Whether the server answers that the model is ready."""

    async def metadata(self) -> Any:
        """The model's `ModelMetadataResponse`."""

    async def server_name(self) -> str:
        """What the server calls itself."""

    async def infer(self, value: bytes, headers: HeaderPairs, timeout: float) -> tuple[bytes, Headers]:
        """A serialised request's serialised answer, and the answer's X- headers."""


class RemoteRuntime:
    """A model of a V2 server. What does not fit the metadata of the model is refused before the call."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server, self._transport = server, transport
        self._calls = asyncio.Semaphore(MAX_CALLS)
        self._declared = Declared(server.name, self.metadata, self._server_name)

    async def load(self) -> None:
        """Get ready to call; whether the server answers is for `ready` to say."""
        await self._transport.open()

    async def unload(self) -> None:
        """Close all connections; calls that are out end with an error."""
        await self._declared.close()
        await self._transport.close()

    async def ready(self) -> bool:
        """Whether the server answers that the model is ready."""
        ready = await self._transport.ready()
        if ready:
            await self._declared.look()
        else:
            self._declared.doubt()
        return ready

    async def metadata(self) -> Any:
        """The server's own metadata of the model, under our name for it."""
        try:
            answer = await self._transport.metadata()
        except Closed:
            raise self._server.unloaded() from None
        answer.name = self._server.name
        return answer

    async def _server_name(self) -> str:
        try:
            return await self._transport.server_name()
        except Closed:
            raise self._server.unloaded() from None

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """One call for each row; rows whose answers come together go on together."""
        begun = asyncio.get_running_loop().time()
        refusal = await self._declared.refusal(columns.specs, timeout)
        if refusal is not None:
            yield Part(range(len(columns)), refusal)
            return
        deadline = begun + timeout
        values = col.encode(columns, col.REQUEST, self._server.model)
        pending = {
            asyncio.ensure_future(self._call(row, value, headers[row], deadline)) for row, value in enumerate(values)
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
            parts.append(Part([good[index][0]], self._server.answered_badly(error.text)))
        for indices, found in groups:
            rows = [good[index][0] for index in indices]
            added = [good[index][2] for index in indices]
            # The caller's id stays, whatever the server makes of it.
            kept = col.Columns([columns.ids[row] for row in rows], found.specs, found.cells, found.parameters)
            parts.append(Part(rows, kept, added if any(added) else None))
        return parts

    async def _call(self, row: int, value: bytes, headers: HeaderPairs, deadline: float) -> _Answer:
        clock = asyncio.get_running_loop().time
        for wait in (*RETRY_WAITS, None):
            try:
                async with self._calls:
                    # Waiting for a turn takes from the row's time.
                    answer, added = await self._transport.infer(value, headers, max(deadline - clock(), 0.001))
            except Unreachable as error:
                self._declared.doubt()
                if wait is None or deadline - clock() < wait:
                    return row, error, ()
                await asyncio.sleep(wait)
            except RequestError as error:
                self._declared.doubt()
                return row, error, ()
            except Closed:
                return row, self._server.unloaded(), ()
            else:
                return row, answer, _new(added, headers)
        raise AssertionError("the last try returns")


_Answer = tuple[int, "bytes | RequestError", "Headers"]


def _new(added: Headers, sent: HeaderPairs) -> Headers:
    """The X- headers that the server's answer has and the request had not."""
    known = {name.lower() for name, _ in sent}
    return tuple(pair for pair in added if pair[0] not in known)
