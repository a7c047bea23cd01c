"""A proxy before a broker that cuts, delays, holds and swallows what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Self

END_TXN = 26


class Proxy:
    """Passes Kafka's frames on, on a thread of its own, unless it is told otherwise."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0
        self._to_swallow = 0
        self.swallowed = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, sock=self._socket), self._loop).result()
        return self

    def stop(self) -> None:
        """Cut everything and end."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._socket.close()
            self._loop.close()

    def cut(self) -> None:
        """Close every connection that there is; new ones are taken."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def delay(self, seconds: float) -> None:
        """Hold every frame, either way, for so long."""
        self._loop.call_soon_threadsafe(setattr, self, "_delay", seconds)

    def hold(self) -> None:
        """Connections stay open, are taken too, and nothing goes through."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        """Let what was held go on."""
        self._loop.call_soon_threadsafe(self._open.set)

    def swallow(self, count: int = 1) -> None:
        """The broker's next so many answers to EndTxn never arrive."""
        self._loop.call_soon_threadsafe(setattr, self, "_to_swallow", count)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        ends: set[int] = set()
        self._writers |= {writer, broker_writer}
        pumps = [
            asyncio.ensure_future(self._pump(reader, broker_writer, ends, asked=True)),
            asyncio.ensure_future(self._pump(broker_reader, writer, ends, asked=False)),
        ]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._pumps.difference_update(pumps)
        for end in (writer, broker_writer):
            self._writers.discard(end)
            end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: set[int], *, asked: bool
    ) -> None:
        """Frame by frame; `ends` are the numbers of requests to end a transaction that have no answer yet."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = await reader.readexactly(4)
                frame = await reader.readexactly(int.from_bytes(size))
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open.wait()
                if not (self._marks(frame, ends) if asked else self._swallows(frame, ends)):
                    writer.write(size + frame)
                    await writer.drain()

    def _marks(self, frame: bytes, ends: set[int]) -> bool:
        """Remember a request to end a transaction; it goes through like any other."""
        if int.from_bytes(frame[:2]) == END_TXN:
            ends.add(int.from_bytes(frame[4:8]))
        return False

    def _swallows(self, frame: bytes, ends: set[int]) -> bool:
        number = int.from_bytes(frame[:4])
        if number not in ends:
            return False
        ends.discard(number)
        if not self._to_swallow:
            return False
        self._to_swallow -= 1
        self.swallowed += 1
        return True
