"""A call's rows while they are computed: parts come as they are done, and every row gets an answer or an error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from engine.errors import ModelFailed, TimedOut
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# A deadline that is seen this late was not the model's fault: the whole process stood still.
STOOD_STILL_SECONDS = 1.0


class Run(Protocol):
    """The rows of one call."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""

    def stop(self) -> None:
        """Begin nothing more for it."""


async def follow(run: Run, name: str, count: int, timeout: float) -> AsyncGenerator[Part, None]:
    """The parts of a run of `count` rows by model `name`; errors for the rows for which there are none.

    When nothing has come for `timeout` seconds, the rows that are left fail.
    """
    left = set(range(count))
    try:
        while not run.over:
            for part in await _finished(run, timeout):
                left.difference_update(part.rows)
                yield part
    except TimeoutError:
        yield Part(sorted(left), TimedOut(f'model "{name}" gave no answer in {timeout:g} s'))
        return
    finally:
        run.stop()
    for part in run.left():
        left.difference_update(part.rows)
        yield part
    if left:
        yield Part(sorted(left), ModelFailed(f'model "{name}" was unloaded before its turn came'))


async def _finished(run: Run, timeout: float) -> list[Part]:
    """The next parts; a process that stood still itself (a laptop that slept) gives the model its time again."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + timeout
        try:
            async with asyncio.timeout_at(due):
                return await run.finished()
        except TimeoutError:
            if loop.time() - due < STOOD_STILL_SECONDS:
                raise
