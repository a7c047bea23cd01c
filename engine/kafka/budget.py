"""How much one process may hold of what it has fetched and not finished."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """Bytes that are out; `room` waits while there are too many. One request may always be taken, however large."""

    def __init__(self, size: int) -> None:
        self._size, self._out = size, 0
        self._room = asyncio.Event()
        self._room.set()
        self._shares: set[Share] = set()

    @property
    def full(self) -> bool:
        """Whether nothing may be taken now."""
        return not self._room.is_set()

    @property
    def portion(self) -> int:
        """What each share may hold though there is no room: together they hold twice the budget at most."""
        return self._size // max(len(self._shares), 1)

    async def room(self) -> None:
        """Wait until something may be taken."""
        await self._room.wait()

    def share(self, relieve: Callable[[], None] = lambda: None) -> Share:
        """One worker's part of it, which can be given back as a whole. `relieve` is called when there is no room."""
        share = Share(self, relieve)
        self._shares.add(share)
        return share

    def take(self, size: int) -> None:
        """These bytes are being worked on."""
        self._out += size
        if self._out >= self._size and self._room.is_set():
            self._room.clear()
            for share in self._shares:
                share.relieve()

    def give(self, size: int) -> None:
        """These bytes are finished."""
        self._out -= size
        if self._out < self._size:
            self._room.set()

    def forget(self, share: Share) -> None:
        """This share takes nothing any more."""
        self._shares.discard(share)


class Share:
    """What one worker has taken of the budget."""

    def __init__(self, budget: Budget, relieve: Callable[[], None]) -> None:
        self._budget, self._out, self.relieve = budget, 0, relieve

    async def room(self) -> None:
        """Wait until something may be taken: at once while this holds less than its portion, whatever others hold.

        A flood of records for one pipeline would else keep all others waiting until it is worked off: calls of a
        pipeline beside one that was fed ten times too much waited half a minute, and most in vain.
        """
        if self._out < self._budget.portion:
            return
        if self._budget.full:
            self.relieve()  # what was taken last may have come to wait since the others were asked
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
        self._budget.forget(self)
