"""Runtimes that can give way to their successors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

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
