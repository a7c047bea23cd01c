"""The V2 protocol over gRPC: `inference.GRPCInferenceService`, health and reflection around `Inference`.

The methods are generic handlers over the messages of the private pool, since generated stubs would register
`inference.*` in protobuf's default pool (design.md, D7).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

import engine
from engine.errors import InvalidInput, ModelFailed, RequestError, TimedOut, TooLarge
from engine.gateway import accepting, observing, routing, statuses
from engine.protocol import columns, messages
from engine.protocol.record import REQUEST_ID
from engine.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from engine.gateway.inference import Inference
    from engine.protocol.record import Headers
    from engine.telemetry.figures import Figures

logger = logging.getLogger(__name__)

HEALTH_SERVICE = "grpc.health.v1.Health"

_INFER = "ModelInfer"
_PUSHBACK = "grpc-retry-pushback-ms"

# Calls that wait for this loop to look at them. Beyond grpcio's own bounds, 1,000 and 3,000, calls end as CANCELLED, by
# chance and unseen, when the loop is seconds behind; this is more than it can refuse within a caller's patience.
_PENDING = 30_000

# How often a watched health is looked at; its callers are load balancers, which need no finer grain.
_WATCH_INTERVAL = 1.0


class Grpc:
    """The gRPC door: `x-request-id` is in the metadata of every response, and in every error's trailers."""

    def __init__(
        self, inference: Inference, figures: Figures, *, max_message_bytes: int, request_timeout: float
    ) -> None:
        self._inference, self._figures = inference, figures
        self._limit, self._timeout = max_message_bytes, request_timeout
        self._server: Any = None
        self._stopping = asyncio.Event()

    async def start(self, path: str) -> None:
        """Listen on a unix socket."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._limit),
                ("grpc.max_send_message_length", self._limit),
                ("grpc.server.max_pending_requests", _PENDING),
                ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING),
            ]
        )
        services = {messages.SERVICE: self._inference_methods(), HEALTH_SERVICE: self._health_methods()}
        handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        self._server.add_generic_rpc_handlers(handlers)
        accepting.several(self._server, messages.SERVICE, _INFER, services[messages.SERVICE][_INFER])
        names = (*services, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_reflection_pool())
        self._server.add_generic_rpc_handlers([_Unknown(self._inference)])
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls and tell clients so; calls that take longer than `grace` seconds are cut off."""
        self._stopping.set()
        if self._server is not None:
            await self._server.stop(grace)

    def _inference_methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "ServerLive": self._unary(messages.ServerLiveRequest, self._server_live),
            "ServerReady": self._unary(messages.ServerReadyRequest, self._server_ready),
            "ServerMetadata": self._unary(messages.ServerMetadataRequest, self._server_metadata),
            "ModelReady": self._unary(messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": self._unary(messages.ModelMetadataRequest, self._model_metadata),
            _INFER: self._unary(messages.ModelInferRequest, self._model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer),
        }

    def _health_methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "Check": self._unary(health_pb2.HealthCheckRequest, self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def _unary(self, message: Any, method: Callable[[Any, _Call], Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
        """A method of one request and one response, with its errors told as statuses."""

        async def answer(data: bytes, context: Any) -> bytes:
            call = _Call(context, self._inference.new_request_id(), self._limit)
            try:
                call.read()
                return await call.encode(await method(_parse(message, data), call))
            except Exception as error:  # noqa: BLE001 - the edge of the process: a fault is told, not passed on
                await call.fail(error)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _server_live(self, _: Any, __: _Call) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: _Call) -> Any:
        return messages.ServerReadyResponse(ready=await self._soon(self._inference.server_ready()))

    async def _server_metadata(self, _: Any, __: _Call) -> Any:
        return messages.ServerMetadataResponse(name="millrace", version=engine.__version__)

    async def _model_ready(self, request: Any, call: _Call) -> Any:
        target = routing.target(call.seldon_model, None, request.name)
        return messages.ModelReadyResponse(ready=await self._soon(self._inference.ready(target, request.version)))

    async def _model_metadata(self, request: Any, call: _Call) -> Any:
        target = routing.target(call.seldon_model, None, request.name)
        return await self._soon(self._inference.metadata(target, request.version))

    async def _soon(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise TimedOut(f"no answer within {self._timeout:g} s") from None

    async def _model_infer(self, request: Any, call: _Call) -> Any:
        return await self._infer(request, call, call.request_id)

    async def _infer(self, request: Any, call: _Call, request_id: str) -> Any:
        target = routing.target(call.seldon_model, None, request.model_name)
        with observing.Counted(self._figures, target, "grpc"):
            headers, timeout = routing.travelling(call.pairs), call.timeout(self._timeout)
            typed = not request.raw_input_contents
            answer = await self._inference.infer(target, request, headers, request_id=request_id, timeout=timeout)
            call.returning = answer.headers
            if typed:
                _make_typed(answer.message)
            return answer.message

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each request of a stream, in order, each within its own deadline.

        The first that fails ends the stream; Triton's clients are told of it in its place, and the stream goes on.
        Metadata is sent once for a stream: the X- headers of the first answer go back, later ones do not. The
        second request's id is the stream's with "-2" behind it, and so on: ids tell requests' records apart.
        """
        call = _Call(context, self._inference.new_request_id(), self._limit)
        try:
            call.read()
            number, triton = 0, False
            async for data in requests:
                number += 1
                request_id = call.request_id if number == 1 else f"{call.request_id}-{number}"
                request = _parse(messages.ModelInferRequest, data)
                if number == 1:
                    triton = routing.is_triton_stream(call.pairs, request)
                yield await (self._answer_triton if triton else self._answer)(request, call, request_id)
        except Exception as error:  # noqa: BLE001 - as in _unary
            await call.fail(error)

    async def _answer(self, request: Any, call: _Call, request_id: str) -> bytes:
        return await call.encode(await self._infer(request, call, request_id))

    async def _answer_triton(self, request: Any, call: _Call, request_id: str) -> bytes:
        """The same as Triton's clients expect it."""
        try:
            answer = await self._infer(request, call, request_id)
            return await call.encode(messages.ModelStreamInferResponse(infer_response=answer))
        except RequestError as error:
            text = statuses.grpc_text(statuses.text_of(error))
            told = messages.ModelStreamInferResponse(error_message=text or type(error).__name__)
            told.infer_response.id, told.infer_response.model_name = request.id, request.model_name
            return await call.encode(told)

    async def _check(self, request: Any, call: _Call) -> Any:
        status = await self._health(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await call.abort(grpc.StatusCode.NOT_FOUND, f'no service "{request.service}"')
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        """Tell a service's health now and whenever it changes; a stop tells it a last time."""
        call = _Call(context, self._inference.new_request_id(), self._limit)
        try:
            call.read()
            request = _parse(health_pb2.HealthCheckRequest, data)
            told = None
            while True:
                last = self._stopping.is_set()
                status = await self._health(request.service)
                if status != told:
                    told = status
                    yield await call.encode(health_pb2.HealthCheckResponse(status=status))
                if last:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_WATCH_INTERVAL):
                        await self._stopping.wait()
        except Exception as error:  # noqa: BLE001 - as in _unary
            await call.fail(error)

    async def _health(self, service: str) -> Any:
        if service not in ("", messages.SERVICE):
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if not self._stopping.is_set() and await self._soon(self._inference.server_ready()):
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING


class _Call:
    """One call as gRPC gives it: its metadata, what goes back in it, and its end."""

    def __init__(self, context: Any, request_id: str, limit: int) -> None:
        self._context, self._limit = context, limit
        self._began = False
        self.request_id = request_id
        self.returning: Headers = ()
        self.pairs: routing.Pairs = ()

    def read(self) -> None:
        """Take the caller's metadata; InvalidInput for a request id that cannot be passed on."""
        self.pairs = tuple(_text_pairs(self._context.invocation_metadata() or ()))
        self.request_id = routing.request_id(self.pairs) or self.request_id

    @property
    def seldon_model(self) -> str | None:
        """The header that routes."""
        return routing.seldon_model(self.pairs)

    def timeout(self, default: float) -> float:
        """How many seconds the call may still take."""
        return routing.timeout(self.pairs, self._context.time_remaining(), default)

    async def encode(self, message: Any) -> bytes:
        """A response as bytes, before which the metadata goes out."""
        data = bytes(message.SerializeToString())
        if len(data) > self._limit:
            raise TooLarge(f"the answer takes {len(data)} bytes; the limit is {self._limit}")
        await self._begin()
        return data

    async def _begin(self) -> None:
        if not self._began:
            self._began = True
            metadata = ((REQUEST_ID, self.request_id), *routing.returning_ascii(self.returning))
            await self._context.send_initial_metadata(metadata)

    async def fail(self, error: Exception) -> NoReturn:
        """End the call with the status of an error; what is no RequestError is our fault, and logged."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        concerned = logs.about([(REQUEST_ID, self.request_id.encode())])
        if isinstance(error, RequestError):
            logger.info("a gRPC call ended with %s", statuses.status_of(error).grpc.name, extra=concerned)
            await self.abort(statuses.status_of(error).grpc, statuses.text_of(error), error.headers, _pushback(error))
        logger.error("a gRPC call failed by a fault in the gateway", exc_info=error, extra=concerned)
        await self.abort(statuses.INTERNAL.grpc, statuses.INTERNAL_TEXT)

    async def abort(
        self, code: grpc.StatusCode, text: str, headers: Headers = (), trailing: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """End the call with a status; `trailing` goes behind it beside the request's id."""
        self.returning = headers
        try:
            await self._begin()
            await self._context.abort(code, statuses.grpc_text(text), ((REQUEST_ID, self.request_id), *trailing))
        except grpc.aio.InternalError as error:
            # The caller's own deadline has passed in the same moment: there is nobody left to tell.
            raise asyncio.CancelledError from error
        raise AssertionError("abort raises")


def _pushback(error: RequestError) -> tuple[tuple[str, str], ...]:
    """When to try again, as gRPC's own clients read it that have a retry policy."""
    seconds = statuses.retry_after(error)
    return () if seconds is None else ((_PUSHBACK, str(seconds * 1000)),)


class _Unknown:
    """Answers methods that do not exist, so that these errors have an `x-request-id` as well."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def service(self, details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_: AsyncIterator[bytes], context: Any) -> None:
            call = _Call(context, self._inference.new_request_id(), 0)
            with contextlib.suppress(InvalidInput):
                call.read()
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such method: {details.method}")

        return grpc.stream_stream_rpc_method_handler(cast("Any", refuse))


def _text_pairs(metadata: Iterable[Any]) -> Iterable[tuple[str, bytes]]:
    for name, value in metadata:
        if not name.endswith("-bin"):
            yield name, value.encode() if isinstance(value, str) else value


def _parse(message: Any, data: bytes) -> Any:
    try:
        return message.FromString(data)
    except messages.DecodeError:
        raise InvalidInput(f"the request is no {message.DESCRIPTOR.full_name} message") from None


def _make_typed(message: Any) -> None:
    try:
        columns.to_typed(message, columns.RESPONSE)
    except (InvalidInput, ValueError) as error:
        raise ModelFailed(f"the answer is no V2 response: {error}") from error


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Our messages, health and reflection in one pool: reflection can look into one only."""
    pool = descriptor_pool.DescriptorPool()
    own = messages.ModelInferRequest.DESCRIPTOR.file
    for file in (own, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        description = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(description)
        pool.Add(description)
    return pool
