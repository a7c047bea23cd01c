"""The page's server, on a port of its own: files, what is loaded, figures as they change, requests."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from engine.errors import BrokerUnavailable, InvalidInput, InvalidSettings, RequestError
from engine.gateway import statuses
from engine.gateway.inference import Target
from engine.protocol import rest_json
from engine.protocol.record import Owner
from engine.resources import quoted
from engine.telemetry.figures import CALLED
from engine.ui import forms, guard
from engine.ui.graphs import Graphs
from engine.ui.live import Live
from engine.ui.requests import Requests
from engine.ui.sending import Sending
from engine.ui.streams import dumps, stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from engine.gateway.inference import Inference
    from engine.kafka.view import View
    from engine.protocol.record import Topics
    from engine.settings import Settings
    from engine.telemetry.figures import Figures

STATIC = Path(__file__).parent / "static"

# Streams end at once when the page stops; what else is being answered gets this long.
STOP_SECONDS = 1.0

# A model's metadata is here, or one call away.
FORM_SECONDS = 5.0


class Page:
    """Shows what this process knows and does to browsers of this machine, and sends what they ask it to."""

    def __init__(self, settings: Settings, topics: Topics, view: View, figures: Figures, plane: Inference) -> None:
        self._settings, self._figures = settings, figures
        self._graphs, self._live = Graphs(view), Live(figures, topics, time.time)
        self._plane = plane
        self._requests = Requests(settings, view)
        self._sending = Sending(settings, view, figures, plane)
        self._hosts: set[str] = set()
        self._address = ("", 0)
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=STOP_SECONDS
        )

    async def start(self, host: str, port: int) -> None:
        """Listen. InvalidSettings when the address cannot be had."""
        self._hosts.add(host.lower())
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise InvalidSettings(
                f"--ui-listen {host}:{port}: the page cannot be served there ({error.strerror or error}); "
                "name another address of this machine, or port 0 for any free one"
            ) from error
        address: Any = self._runner.addresses[0]
        self._address = (str(address[0]), int(address[1]))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; the real port when 0 was asked for."""
        return self._address

    @property
    def url(self) -> str:
        """Where a browser of this machine finds it."""
        host, port = self.address
        if host in ("0.0.0.0", "::"):  # noqa: S104  it is listened everywhere, here too
            host = "localhost"
        return f"http://[{host}]:{port}/ui/" if ":" in host else f"http://{host}:{port}/ui/"

    async def stop(self) -> None:
        """End all streams, and answer no more."""
        await self._live.end()
        await self._sending.stop()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer], client_max_size=self._settings.max_message_bytes)
        router = application.router
        router.add_get("/", _to_the_page)
        router.add_get("/ui", _to_the_page)
        router.add_get("/ui/", _index)
        router.add_static("/ui/static/", STATIC)
        router.add_get("/ui/api/graphs", self._show_graphs)
        router.add_get("/ui/api/live", self._show_live)
        router.add_get("/ui/api/requests", self._list_requests)
        router.add_get("/ui/api/requests/{id}", self._show_request)
        router.add_get("/ui/api/form", self._show_form)
        router.add_post("/ui/api/send", self._send)
        router.add_get("/ui/api/follow/{id}", self._follow)
        return application

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            guard.check(request, self._hosts)
            response = await handler(request)
        except web.HTTPFound as error:
            response = web.Response(status=error.status, headers={"Location": str(error.location)})
        except web.HTTPException as error:
            response = _document({"error": error.reason}, error.status)
        except RequestError as error:
            response = _document({"error": statuses.text_of(error)}, statuses.status_of(error).http)
        except BrokerUnavailable as error:
            response = _document({"error": str(error)}, web.HTTPServiceUnavailable.status_code)
        if not response.prepared:
            response.headers.update(guard.HEADERS)
            # A new release's files are shown at once, not when a browser has forgotten those of the last one.
            response.headers.setdefault("Cache-Control", "no-cache")
        return response

    async def _show_graphs(self, _: web.Request) -> web.Response:
        head = {
            "namespace": self._settings.namespace,
            "guarantee": self._settings.processing_guarantee or None,
            "broker": self._settings.kafka_broker,
        }
        return _document(head | await self._graphs.document(time.time()))

    async def _show_live(self, request: web.Request) -> web.StreamResponse:
        async with aclosing(self._events()) as events:
            return await stream(request, events)

    async def _events(self) -> AsyncGenerator[tuple[str, Any], None]:
        """The figures each second, and that what is loaded has changed."""
        version, state = 0, self._graphs.state(time.time())
        async with aclosing(self._live.watch()) as figures:
            async for each in figures:
                now = self._graphs.state(time.time())
                if now != state:
                    version, state = version + 1, now
                    yield "graphs", {"version": version}
                yield "figures", each

    async def _list_requests(self, request: web.Request) -> web.Response:
        self._check_broker()
        limit = request.query.get("limit", "50")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 6:  # noqa: PLR2004  digits of a sensible limit
            raise InvalidInput(f"limit is {quoted(limit[:40])}; it has to be a number of requests")
        return _document({"requests": await self._requests.latest(_asked(request, "pipeline"), int(limit))})

    async def _show_request(self, request: web.Request) -> web.Response:
        request_id = request.match_info["id"]
        if "model" in request.query or "experiment" in request.query:
            # They are answered without topics, where the model runs in this process.
            sent = self._sending.sent(request_id)
            return _document({"id": request_id, "pipeline": None, "records": sent.records, "complete": True})
        self._check_broker()
        return _document(await self._requests.records(_asked(request, "pipeline"), request_id))

    async def _show_form(self, request: web.Request) -> web.Response:
        async with asyncio.timeout(FORM_SECONDS):
            return _document(forms.prefilled(await self._plane.metadata(_target(request))))

    async def _send(self, request: web.Request) -> web.Response:
        target = _target(request)
        await self._plane.ready(target)  # raises when there is none
        message = rest_json.decode_request(await request.read())
        message.model_name = target.name
        return _document({"id": self._sending.send(target, message)}, web.HTTPAccepted.status_code)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        async with aclosing(self._sending.sent(request.match_info["id"]).events()) as events:
            return await stream(request, events)

    def _check_broker(self) -> None:
        """A broker that is known to be away is not waited for."""
        if fault := self._figures.kafka():
            raise BrokerUnavailable(fault)


def _asked(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise InvalidInput(f"say by ?{name}= which {name} is meant")
    return value


def _target(request: web.Request) -> Target:
    kind = _asked(request, "kind")
    if kind not in CALLED:
        raise InvalidInput(f"kind is {quoted(kind[:40])}; it has to be one of {', '.join(CALLED)}")
    return Target(Owner(kind), _asked(request, "name"))


async def _to_the_page(_: web.Request) -> web.Response:
    raise web.HTTPFound("/ui/")


async def _index(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


def _document(data: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=dumps(data), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
