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

    def share(self) -> Share:
        """One worker's part of it, which can be given back as a whole."""
        return Share(self)

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


class Share:
    """What one worker has taken of the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._out = budget, 0

    async def room(self) -> None:
        """Wait until something may be taken."""
        await self._budget.room()

    def take(self, size: int) -> None:
        """These bytes are being worked on."""
        self._out += size
        self._budget.take(size)

    def give(self, size: int) -> None:
        """These bytes are finished."""
        self._out -= size
        self._budget.give(size)

    def close(self) -> None:
        """The worker has ended: what it never finished is no longer held."""
        self.give(self._out)
