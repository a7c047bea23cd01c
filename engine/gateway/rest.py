"""The V2 protocol over HTTP/1: paths and JSON around `Inference`."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

import engine
from engine.errors import InvalidInput, ModelFailed, RequestError, TimedOut, TooLarge
from engine.gateway import observing, routing, statuses
from engine.gateway.port import Connections
from engine.protocol import rest_json
from engine.protocol.metadata import encode_metadata
from engine.protocol.record import REQUEST_ID, Owner
from engine.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.gateway.inference import Inference, Target
    from engine.telemetry.figures import Figures

logger = logging.getLogger(__name__)

# The id of the request that this task answers; aiohttp answers each in a task of its own, and makes some of
# its error responses outside of the middleware.
_request_id: ContextVar[str] = ContextVar("request_id", default="")

_JSON = "application/json"

# How much of a body is JSON; binary tensors follow.
_BINARY = "Inference-Header-Content-Length"

# What aiohttp unpacks; a body in any other encoding it hands over as it came.
_ENCODINGS = ("gzip", "deflate", "br", "zstd")

# No body is longer than this number of bytes has digits.
_MOST_DIGITS = 15

# How long a connection may stay open between requests: longer than the 60 s of common proxies, so that theirs
# is the end that closes.
_KEEP_ALIVE = 75.0

# What is left of the grace for handlers to hear that they are cancelled, and for their last bytes to leave.
_LAST_WORDS = 1.0


class Rest:
    """The HTTP/1 door: each response, even to what is no request, has `x-request-id`; every error is JSON."""

    def __init__(
        self, inference: Inference, figures: Figures, *, max_message_bytes: int, request_timeout: float
    ) -> None:
        self._inference, self._figures = inference, figures
        self._limit, self._timeout = max_message_bytes, request_timeout
        self._runner = web.AppRunner(self._application(), access_log=None, handler_cancellation=True)
        self.connections = Connections()
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Get ready to make protocols."""
        await self._runner.setup()

    def protocol(self) -> asyncio.Protocol:
        """What answers one connection."""
        return _Http1(self)

    @property
    def server(self) -> web.Server:
        """What aiohttp's protocols report to, once started."""
        assert self._runner.server is not None
        return self._runner.server

    async def stop(self, grace: float) -> None:
        """End idle connections at once, and those with a call when it is answered or `grace` is over."""
        if self._runner.server is not None:
            self.server.pre_shutdown()
            # aiohttp waits so long twice: for the handlers, and again before it cancels them; 0 is for ever.
            await self.server.shutdown(max(grace / 2, 0.001))
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=_LAST_WORDS)
        await self.connections.end(_LAST_WORDS)
        await self._runner.cleanup()

    def new_request_id(self) -> str:
        """An id for a request that could not be read."""
        return self._inference.new_request_id()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer], client_max_size=self._limit)
        router = application.router
        router.add_get("/v2", self._server_metadata)
        router.add_get("/v2/health/live", self._live)
        router.add_get("/v2/health/ready", self._server_ready)
        observing.add_routes(router, self._figures)
        for owner in Owner:
            for path in (f"/v2/{owner}s/{{name}}", f"/v2/{owner}s/{{name}}/versions/{{version}}"):
                router.add_get(path, self._of(owner, self._metadata))
                router.add_get(f"{path}/ready", self._of(owner, self._ready))
                router.add_post(f"{path}/infer", self._of(owner, self._infer))
        return application

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        request_id = self._inference.new_request_id()
        _request_id.set(request_id)
        try:
            request_id = routing.request_id(_pairs(request)) or request_id
            _request_id.set(request_id)
            response = await handler(request)
        except RequestError as error:
            response = _error(statuses.status_of(error).http, statuses.text_of(error))
            logger.info("a REST call ended with %d", response.status, extra=_about())
            for name, value in routing.returning(error.headers):
                response.headers.add(name, value)
            if (seconds := statuses.retry_after(error)) is not None:
                response.headers["Retry-After"] = str(seconds)
        except web.HTTPException as error:
            response = _refusal(request, error)
        response.headers[REQUEST_ID] = request_id
        return response

    def _of(
        self, owner: Owner, answer: Callable[[web.Request, Target], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            seldon_model = routing.seldon_model(_pairs(request))
            return await answer(request, routing.target(seldon_model, owner, request.match_info["name"]))

        return handle

    async def _infer(self, request: web.Request, target: Target) -> web.Response:
        with observing.Counted(self._figures, target, "rest"):
            return await self._answer_infer(request, target)

    async def _answer_infer(self, request: web.Request, target: Target) -> web.Response:
        # A body that is read and unpacked first to be refused then costs what the calls that are in flight need.
        self._inference.check_room(target)
        pairs = _pairs(request)
        headers = routing.travelling(pairs)
        timeout = routing.timeout(pairs, None, self._timeout)
        message, binary = rest_json.decode_call(await self._body(request, timeout), _json_length(request))
        message.model_name, message.model_version = target.name, _version(request)
        answer = await self._inference.infer(target, message, headers, request_id=_request_id.get(), timeout=timeout)
        response = self._answered(answer.message, binary)
        for name, value in routing.returning(answer.headers):
            response.headers.add(name, value)
        return response

    def _answered(self, message: Any, binary: rest_json.BinaryOutputs) -> web.Response:
        """An answer's body; one that cannot be written so is the model's fault and not the caller's."""
        try:
            body, json_length = rest_json.encode_answer(message, binary)
        except (InvalidInput, ValueError) as error:
            raise ModelFailed(f"the answer is no V2 response: {error}") from error
        if len(body) > self._limit:
            raise TooLarge(f"the answer takes {len(body)} bytes; the limit is {self._limit}; binary tensors take fewer")
        if json_length is None:
            return _json(body)
        return web.Response(body=body, content_type="application/octet-stream", headers={_BINARY: str(json_length)})

    async def _body(self, request: web.Request, timeout: float) -> bytes:
        """The request's body, unpacked; TooLarge as soon as it is known to be over the limit."""
        if (request.content_length or 0) > self._limit:
            raise self._too_large()
        _check_encoding(request)
        try:
            if request.content.is_eof():
                # All of it came with the headers, as that of most calls does: there is nothing to wait for.
                return await request.read()
            async with asyncio.timeout(timeout):
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason=f"the request's body did not come within {timeout:g} s") from None
        except web.HTTPRequestEntityTooLarge:
            raise self._too_large() from None
        except web.RequestPayloadError as error:
            cause = error.__cause__
            reason = cause.message if isinstance(cause, HttpProcessingError) else "it ends too early"
            raise web.HTTPBadRequest(reason=f"the request's body is malformed: {reason}") from None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request is over the limit of {self._limit} bytes")

    async def _ready(self, request: web.Request, target: Target) -> web.Response:
        if await self._soon(self._inference.ready(target, _version(request))):
            return _document({"name": target.name, "ready": True})
        return _error(503, f'{target.owner} "{target.name}" is not ready: {self._inference.unready(target)}')

    async def _metadata(self, request: web.Request, target: Target) -> web.Response:
        return _json(encode_metadata(await self._soon(self._inference.metadata(target, _version(request)))))

    async def _server_metadata(self, _: web.Request) -> web.Response:
        return _document({"name": "millrace", "version": engine.__version__, "extensions": ["binary_tensor_data"]})

    async def _live(self, _: web.Request) -> web.Response:
        return _document({"live": True})

    async def _server_ready(self, _: web.Request) -> web.Response:
        if await self._soon(self._inference.server_ready()):
            return _document({"ready": True})
        return _error(503, "the server is not ready")

    async def _soon(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise TimedOut(f"no answer within {self._timeout:g} s") from None


class _Http1(web.RequestHandler):
    """aiohttp's protocol, with V2 errors for its own ones; the door knows its task and its connection."""

    __slots__ = ("_connection", "_rest")

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        loop = asyncio.get_running_loop()
        # Without a log for accesses aiohttp makes none; its signature does not say that it takes None.
        no_log = cast("logging.Logger", None)
        super().__init__(rest.server, loop=loop, access_log=no_log, keepalive_timeout=_KEEP_ALIVE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast("asyncio.Transport", transport)
        self._rest.connections.opened(self._connection)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._rest.connections.lost(self._connection)

    async def start(self) -> None:
        self._make_known()
        await super().start()

    def _make_known(self) -> None:
        """Apart, as a frame that had its own task would hold itself by the error that ends it, with the last body."""
        task = asyncio.current_task()
        assert task is not None
        self._rest.tasks.add(task)
        task.add_done_callback(self._rest.tasks.discard)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a fault, unless it is the caller's body, of which aiohttp looks for the rest once more."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP request, and requests on which a handler failed by a fault of ours."""
        if status >= 500:  # noqa: PLR2004 - the server's faults
            logger.error("a REST call failed by a fault in the gateway", exc_info=exc, extra=_about())
        if request.writer.output_size > 0:
            raise ConnectionError("the response has been sent in part, so no error can be")
        malformed = f"the HTTP request is malformed: {message or exc}"
        response = _error(status, statuses.INTERNAL_TEXT if status >= 500 else malformed)  # noqa: PLR2004 - as above
        response.headers[REQUEST_ID] = _request_id.get() or self._rest.new_request_id()
        response.force_close()
        return response


def _version(request: web.Request) -> str:
    return request.match_info.get("version", "")


def _about() -> dict[str, object]:
    return logs.about([(REQUEST_ID, _request_id.get().encode())])


def _pairs(request: web.Request) -> routing.Pairs:
    return tuple((name.decode("latin-1").lower(), value) for name, value in request.raw_headers)


def _check_encoding(request: web.Request) -> None:
    text = request.headers.get("Content-Encoding", "").strip()
    if text and text.lower() not in (*_ENCODINGS, "identity"):
        known = ", ".join(_ENCODINGS)
        raise InvalidInput(f'the request\'s body is encoded in "{text[:40]}"; known are {known}, one of them at a time')


def _json_length(request: web.Request) -> int | None:
    text = request.headers.get(_BINARY)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise InvalidInput(f'header "{_BINARY}" is "{text[:40]}"; expected how many bytes of the body are JSON')
    return int(text)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=_JSON)


def _document(document: dict[str, Any]) -> web.Response:
    return _json(orjson.dumps(document))


def _error(status: int, text: str) -> web.Response:
    return _json(rest_json.encode_error(text), status)


def _refusal(request: web.Request, error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses, as a V2 error: no such path, or not with this method."""
    if isinstance(error, web.HTTPNotFound):
        return _error(error.status, f"no such path: {request.path}")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        response = _error(error.status, f"{request.method} is not allowed here; use {allowed}")
        response.headers["Allow"] = allowed
        return response
    response = _error(error.status, error.reason)
    if isinstance(error, web.HTTPBadRequest | web.HTTPRequestTimeout):
        # What still comes of a body that could not be read is no request.
        response.force_close()
    return response
