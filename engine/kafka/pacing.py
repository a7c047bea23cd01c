"""How fast a worker takes what waits for it: little at first, more while the load lasts.

A request in flight takes 2 to 3 KB, and Python keeps for itself what it has once needed. With polls of 4,000 requests
from the first on, all taken at once, a worker that had worked off a backlog stayed larger by most of it: by 8 MB after
4,000 requests of two steps, by 31 after 12,000. As follows it is 5 and 12, and a load that lasts is at full speed after
30,000 requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# A poll costs 5 ms of CPU whatever it brings: with 500 requests in each they take 36 µs each, with 4,000 of them 27.
# More than that make a batch's answers late and save nothing.
FEWEST, MOST = 250, 4000

# A broker that is slow to write, or away, is waited for with a poll for so long at most.
PACE_SECONDS = 0.25


class PollSize:
    """The most records that the next poll of a consumer brings: an eighth more after each one that was full."""

    def __init__(self) -> None:
        self.most = FEWEST

    def adapt(self, records: int) -> None:
        """The last one brought this many."""
        if records >= self.most:
            self.most = min(MOST, self.most * 9 // 8)
        else:
            self.most = max(FEWEST, self.most * 8 // 9)


class Pace:
    """Has polls that grow wait until what was taken before them is written, but for one that is made ready meanwhile.

    Polls that have grown do not wait: the worker would be idle for 12 % of the time.

    unwritten    how many requests are done and not written yet; not those that run, which may take long
    progressed   waits until some more are written
    """

    def __init__(self, unwritten: Callable[[], int], progressed: Callable[[], Awaitable[None]]) -> None:
        self._unwritten, self._progressed = unwritten, progressed
        self._last = 0

    async def room(self, records: int) -> None:
        """Wait until a poll of this many may be taken."""
        last, self._last = self._last, records
        if not FEWEST <= last < MOST:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PACE_SECONDS):
                while self._unwritten() > last:
                    await self._progressed()
