"""What models say of their tensors, as it is told to every process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.runtimes.contract import Runtime

# It stands in a model's state, which every process of the namespace holds in memory.
MOST_BYTES = 64 * 1024


async def metadata_of(runtime: Runtime, seconds: float) -> Any:
    """What a model says of its tensors; None when it says nothing, not in time, or more than a state should hold."""
    try:
        async with asyncio.timeout(seconds):
            found = await runtime.metadata()
    except (EngineError, TimeoutError):
        return None
    return found if found.ByteSize() <= MOST_BYTES else None
