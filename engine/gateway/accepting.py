"""Several calls of one gRPC method accepted at a time.

grpcio's asyncio server asks its core for a call of a method, and for the next one only some six turns of the event loop
later, when it has begun with that: 450 calls a second in a process that is busy, whatever else it has time for. It asks
for each registered method by itself though. So a method that is registered under several names, for all of which the
one is asked that callers use, is asked for several times at once.

What a server asks for is seen in one private method of it. A grpcio that has no such method accepts one call at a time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc

if TYPE_CHECKING:
    import asyncio

    import grpc

# More make no difference to 64 callers.
AT_ONCE = 16

# Behind a method's name, before a number.
_MARK = "\n"

_SEEN = hasattr(cygrpc.AioServer, "_make_request_call_future")


class _Server(cygrpc.AioServer):  # type: ignore[misc]
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._turned_away: dict[bytes, asyncio.Task[Any]] = {}

    def _make_request_call_future(self, method: bytes | None) -> Any:
        """The next call of a method; None is any that is not registered."""
        if method is None:
            return super()._make_request_call_future(None)
        asked, mark, _ = method.partition(_MARK.encode())
        if mark and method not in self._turned_away:
            self._turn_away(method)
        return super()._make_request_call_future(asked)

    def _turn_away(self, name: bytes) -> None:
        """Who calls by a name that is ours alone is not left waiting: nobody holds the call, so it is cancelled."""
        call = self._turned_away[name] = super()._make_request_call_future(name)
        call.add_done_callback(partial(self._ended, name))

    def _ended(self, name: bytes, call: asyncio.Task[Any]) -> None:
        # An error is the end of the server.
        if not call.cancelled() and call.exception() is None:
            self._turn_away(name)


if _SEEN:
    # The only way to it: `grpc.aio.server` makes what stands under this name.
    cygrpc.AioServer = _Server


def several(
    server: grpc.aio.Server, service: str, method: str, handler: grpc.RpcMethodHandler[Any, Any], at_once: int = AT_ONCE
) -> None:
    """Have a server that has no port yet accept so many calls of a method at a time.

    The method stays with the service's generic handlers, too, by which it is called where this cannot be had.
    """
    if _SEEN:
        names = (method, *(f"{method}{_MARK}{number}" for number in range(1, at_once)))
        server.add_registered_method_handlers(service, dict.fromkeys(names, handler))
