"""One listening port for REST and gRPC: a connection's first bytes say whose it is.

grpcio can neither speak HTTP/1 nor adopt an accepted socket (grpc/grpc #8043), so HTTP/1 stays in this
process and HTTP/2 is piped to grpcio on a private unix socket. Measured: the pipe costs nothing that could be
seen, and the servers that speak both protocols themselves failed under load (docs/decisions).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Protocol, cast

from engine.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# What every HTTP/2 connection begins with, and no HTTP/1 request.
PREFACE = b"PRI * HTTP/2.0"

# A peer that never shows its first bytes would hold a socket for ever; real clients send them with the
# handshake, so ten seconds only ever end dead connections.
FIRST_BYTES_DEADLINE = 10.0

# The socket is our own and on this machine: a connection that takes this long will not come.
_CONNECT_DEADLINE = 5.0

# After the drain nothing is left to say; this is for the last bytes to reach slow callers.
_FLUSH = 1.0

# Callers that arrive together wait in the kernel until the loop has accepted them.
_BACKLOG = 1024

# The kernel's limit for a unix socket's path, its ending zero included.
_LONGEST_SOCKET_PATH = 107


class HttpDoor(Protocol):
    """Who answers HTTP/1: makes one protocol for each connection."""

    async def start(self) -> None:
        """Get ready to make protocols."""

    def protocol(self) -> asyncio.Protocol:
        """Make what answers one connection."""

    async def stop(self, grace: float) -> None:
        """End idle connections at once and the others within `grace` seconds."""


class GrpcDoor(Protocol):
    """Who answers HTTP/2: listens on a unix socket."""

    async def start(self, path: str) -> None:
        """Listen at `path`."""

    async def stop(self, grace: float) -> None:
        """Take no more calls; end those in flight within `grace` seconds, and all connections."""


class Connections:
    """The connections that are open, so that a stop can wait for them and end those that stay."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, transport: asyncio.Transport) -> None:
        """To be called when a connection is made."""
        self._open.add(transport)
        self._none.clear()

    def lost(self, transport: asyncio.Transport) -> None:
        """To be called when a connection is lost."""
        self._open.discard(transport)
        if not self._open:
            self._none.set()

    async def end(self, seconds: float) -> None:
        """Wait until all are closed; those that still stand after `seconds` are cut off."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()
        for transport in tuple(self._open):
            transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH):
                await self._none.wait()


class Port:
    """The one port: listens, and hands each connection to the door that its first bytes ask for."""

    def __init__(self, http: HttpDoor, grpc: GrpcDoor, *, first_bytes_deadline: float = FIRST_BYTES_DEADLINE) -> None:
        self._http, self._grpc, self._deadline = http, grpc, first_bytes_deadline
        self._listener: asyncio.Server | None = None
        self._folder: str | None = None
        self._socket = ""
        self._address = ("", 0)
        self._undecided, self._piped = Connections(), Connections()
        self._connecting: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen and answer; InvalidSettings when the address cannot be had."""
        try:
            self._listener = await _bind(lambda: _FirstBytes(self), host, port)
            self._address = self._listener.sockets[0].getsockname()[:2]
            await self._http.start()
            self._socket = self._make_socket_path()
            await self._grpc.start(self._socket)
            await _listen(self._listener, host, port)
        except BaseException:
            await self.stop(0)
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; the real port when 0 was asked for."""
        return self._address

    async def stop(self, grace: float) -> None:
        """Accept no more, let calls in flight end within `grace` seconds, then end the rest."""
        if self._listener is not None:
            self._listener.close()
        await self._undecided.end(0)
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        await asyncio.gather(self._http.stop(grace), self._grpc.stop(grace))
        await self._piped.end(_FLUSH)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make_socket_path(self) -> str:
        """Where grpcio listens: in a folder that only this user may enter (mkdtemp makes it 0700)."""
        self._folder = tempfile.mkdtemp(prefix="millrace-")
        path = f"{self._folder}/grpc.sock"
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise InvalidSettings(f"no unix socket can be made at {path}: set TMPDIR to a folder with a shorter path")
        return path

    # What the connections tell and ask; they are part of this module.

    @property
    def first_bytes_deadline(self) -> float:
        """How long a connection may keep its first bytes to itself."""
        return self._deadline

    @property
    def undecided(self) -> Connections:
        """Those that have not shown their first bytes."""
        return self._undecided

    def serve(self, transport: asyncio.Transport, first: bytes) -> None:
        """Hand a connection to its door, with the bytes read from it."""
        if first.startswith(PREFACE):
            self._pipe(transport, first)
            return
        protocol = self._http.protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(first)

    def _pipe(self, transport: asyncio.Transport, first: bytes) -> None:
        client = _End(self._piped)
        transport.pause_reading()
        transport.set_protocol(client)
        client.connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._connect(client, first))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: _End, first: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_DEADLINE):
                _, server = await loop.create_unix_connection(lambda: _End(self._piped), self._socket)
        except OSError as error:
            logger.warning("a gRPC connection was closed: the gRPC server cannot be reached (%s)", error)
            client.transport.abort()
        except asyncio.CancelledError:
            client.transport.abort()
            raise
        else:
            client.join(server, first)


async def _bind(factory: Callable[[], asyncio.Protocol], host: str, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(factory, host, port, backlog=_BACKLOG, start_serving=False)
    except OSError as error:
        raise _unusable(host, port, error) from error


async def _listen(listener: asyncio.Server, host: str, port: int) -> None:
    """Accept connections; a bound address may still be lost to another process at this moment."""
    try:
        await listener.start_serving()
    except OSError as error:
        raise _unusable(host, port, error) from error


def _unusable(host: str, port: int, error: Exception) -> InvalidSettings:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return InvalidSettings(
            f"--listen {host}:{port}: the port is in use; end the process that has it, "
            f"or name another one with --listen HOST:PORT (port 0 takes any free one)"
        )
    return InvalidSettings(f"--listen {host}:{port}: cannot listen there ({error}); name an address of this machine")


class _FirstBytes(asyncio.Protocol):
    """A connection of which is not known yet what it speaks."""

    def __init__(self, port: Port) -> None:
        self._port, self._seen = port, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._port.undecided.opened(self._transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._port.first_bytes_deadline, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if len(self._seen) < len(PREFACE) and PREFACE.startswith(self._seen):
            return
        self._decided()
        self._port.serve(self._transport, self._seen)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        self._decided()

    def _decided(self) -> None:
        self._timer.cancel()
        self._port.undecided.lost(self._transport)


class _End(asyncio.Protocol):
    """One of a pipe's two ends: what it reads the other writes, as fast as the other can.

    Until `join` it has no other end, and keeps what it reads: little, since a caller's end reads nothing until then,
    and a server says no more than its settings before it is asked.
    """

    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._other: _End | None = None
        self._lost = self._answers = False
        self._early = b""

    def join(self, server: _End, first: bytes) -> None:
        """Make a pipe of this end, the caller's, and the server's, and let `first` through."""
        if self._lost or server._lost:
            self.transport.abort()
            server.transport.abort()
            return
        self._other, server._other = server, self
        server._answers = True
        # In this order: writing may fill the server's buffer, and then reading is to stop again.
        self.transport.resume_reading()
        server.transport.write(first + self._early)
        self.transport.write(server._early)
        self._early = server._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._connections.opened(self.transport)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        else:
            self._other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass a caller's EOF on and keep the way back open; a server that ends has said everything."""
        if self._answers or self._other is None:
            return False
        self._other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        self._lost = True
        self._connections.lost(self.transport)
        if self._other is not None:
            # Not abort: what the server said last is still to be written.
            self._other.transport.close()
            self._other = None  # else they would hold each other until the collector comes by
