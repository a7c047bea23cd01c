"""Runtimes that can give way to their successors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs
    from engine.runtimes.contract import Part, Runtime

log = logging.getLogger(__name__)


class Retirable:
    """A loaded runtime that can give way to its successor: unloading it would fail the calls that are out."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.load, self.unload = runtime.load, runtime.unload
        self.ready, self.metadata = runtime.ready, runtime.metadata
        # The library's object of a model that is an artefact, for explainers.
        self.native: Any = getattr(runtime, "native", None)
        self._out, self._idle = 0, asyncio.Event()
        self._idle.set()

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """As the runtime itself."""
        self._out += 1
        self._idle.clear()
        try:
            async for part in self._runtime.infer(columns, headers, timeout):
                yield part
        finally:
            self._out -= 1
            if not self._out:
                self._idle.set()

    async def retire(self, seconds: float) -> None:
        """Unload it once no call is out, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a model that was replaced had calls out after %g s; they end with an error", seconds)
        finally:
            await self._runtime.unload()


class Leaving:
    """Models that are unloaded, for the requests that were read while they were loaded.

    retire   told of each that no such request can need any more
    """

    def __init__(self, retire: Callable[[Retirable], None]) -> None:
        self._retire, self._runtimes = retire, dict[str, Retirable]()

    def add(self, name: str, runtime: Retirable) -> None:
        """A model that is unloaded; an older one of its name is not needed any more."""
        if name in self._runtimes:
            self._retire(self._runtimes[name])
        self._runtimes[name] = runtime

    def get(self, name: str) -> Retirable | None:
        """The model of that name, if it is leaving."""
        return self._runtimes.get(name)

    def free(self) -> None:
        """Retire all: whatever was read before has ended."""
        while self._runtimes:
            self._retire(self._runtimes.popitem()[1])
