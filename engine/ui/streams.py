"""Server-sent events: what happens, told to a browser as it does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A browser that reads nothing keeps us no longer.
WRITE_SECONDS = 30.0


def dumps(data: Any) -> bytes:
    """JSON, in which text of callers that UTF-8 cannot say is replaced."""
    try:
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Half of a surrogate pair, as JSON may hold.
        return orjson.dumps(_sayable(data), option=orjson.OPT_SERIALIZE_NUMPY)


def _sayable(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode()
    if isinstance(data, dict):
        return {_sayable(key): _sayable(value) for key, value in data.items()}
    return [_sayable(each) for each in data] if isinstance(data, list | tuple) else data


async def stream(request: web.Request, events: AsyncIterator[tuple[str, Any]]) -> web.StreamResponse:
    """Tell of events, each with its name and data, until they end or the browser goes away."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    with suppress(ConnectionError, TimeoutError):
        async for name, data in events:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(b"event: %s\ndata: %s\n\n" % (name.encode(), dumps(data)))
    return response
