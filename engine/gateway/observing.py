"""What operators ask over HTTP: figures for Prometheus, and in words whether the broker answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from engine.errors import InvalidSettings, RequestError
from engine.gateway import statuses
from engine.protocol import rest_json
from engine.telemetry import exposition

if TYPE_CHECKING:
    from engine.gateway.inference import Target
    from engine.telemetry.figures import Figures

# A caller that goes away has no status; other servers' logs know this one.
_GONE = {"rest": "499", "grpc": "CANCELLED"}
_FINE = {"rest": "200", "grpc": "OK"}
_FAULT = {"rest": "500", "grpc": "INTERNAL"}


def add_routes(router: web.UrlDispatcher, figures: Figures) -> None:
    """Serve `/metrics` and `/v2/health/kafka`."""

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await exposition.scrape(figures, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def kafka(_: web.Request) -> web.Response:
        fault = figures.kafka()
        body = rest_json.encode_error(fault) if fault else orjson.dumps({"ready": True})
        return web.Response(body=body, status=503 if fault else 200, content_type="application/json")

    router.add_get("/metrics", metrics)
    router.add_get("/v2/health/kafka", kafka)


class Counted:
    """One call while it is being answered by a door; how it ends is counted, whatever it is."""

    def __init__(self, figures: Figures, target: Target, method: str) -> None:
        self._figures, self._target, self._method = figures, target, method

    def __enter__(self) -> None:
        self._since = time.perf_counter()
        self._figures.calls[self._method] += 1

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.perf_counter() - self._since
        self._figures.calls[self._method] -= 1
        target = self._target
        self._figures.answered(target.owner, target.name, self._method, _code(error, self._method), seconds)


def _code(error: BaseException | None, method: str) -> str:
    if error is None:
        return _FINE[method]
    if isinstance(error, RequestError):
        status = statuses.status_of(error)
        return str(status.http) if method == "rest" else str(status.grpc.name)
    if isinstance(error, web.HTTPException):
        return str(error.status)
    return _GONE[method] if isinstance(error, asyncio.CancelledError) else _FAULT[method]


class Window:
    """A port of its own for all that operators ask, which is all that a process without a gateway answers."""

    def __init__(self, figures: Figures) -> None:
        application = web.Application()
        application.router.add_get("/v2/health/live", _live)
        add_routes(application.router, figures)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Listen. InvalidSettings when the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise InvalidSettings(
                f"metrics_listen is {host}:{port}, which cannot be listened on: {error.strerror or error}"
            ) from error

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        address: Any = self._runner.addresses[0]
        return address[0], address[1]

    async def stop(self) -> None:
        """Answer no more."""
        await self._runner.cleanup()


async def _live(_: web.Request) -> web.Response:
    return web.json_response({"live": True})
