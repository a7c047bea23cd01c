"""How much one process may hold of what it has fetched and not finished."""

from __future__ import annotations

import asyncio


class Budget:
    """Bytes that are out; `room` waits while there are too many. One request may always be taken, however large."""

    def __init__(self, size: int) -> None:
        self._size, self._out = size, 0
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Wait until something may be taken."""
        await self._room.wait()

    def take(self, size: int) -> None:
        """These bytes are being worked on."""
        self._out += size
        if self._out >= self._size:
            self._room.clear()

    def give(self, size: int) -> None:
        """These bytes are finished."""
        self._out -= size
        if self._out < self._size:
            self._room.set()
