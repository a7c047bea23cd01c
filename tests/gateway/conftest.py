"""A gateway on a free port with a stand-in for the data plane behind it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import uvloop

from engine.errors import Overloaded, UnknownResource
from engine.gateway.inference import Answer, Target
from engine.gateway.server import Gateway
from engine.protocol import messages
from engine.telemetry.figures import Figures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from engine.errors import RequestError
    from engine.protocol.record import Headers

LIMIT = 64 << 20


class FakeInference:
    """NOT the product's data plane: echoes inputs as outputs, fails or waits as a test asks.

    echo    answers at once, with raw contents and the caller's headers and `self.headers`
    slow    answers when `release` is set; `entered` and `left` count such calls
    else    unknown, unless `failures` has an error for the name

    `is_full`: refuses calls before their bodies are read.
    """

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.failures: dict[str, Exception] = {}
        self.headers: Headers = ()
        self.calls: list[tuple[Target, Any, Headers, str, float]] = []
        self.release = asyncio.Event()
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.is_ready, self.is_full = True, False
        self.version = ""
        self.asked: list[str] = []

    def new_request_id(self) -> str:
        return f"made-{next(self.ids)}"

    def check_room(self, target: Target) -> None:
        if self.is_full:
            raise Overloaded(f"no room for {target.name}")

    async def infer(
        self,
        target: Target,
        request: Any,
        headers: Headers,
        *,
        request_id: str,
        timeout: float,
    ) -> Answer:
        self.calls.append((target, request, headers, request_id, timeout))
        self._refuse(target)
        if target.name == "slow":
            await self._wait(request_id)
        message = messages.ModelInferResponse(model_name=target.name, id=request.id, model_version=self.version)
        for tensor in request.inputs:
            message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        raws = request.raw_input_contents or [_raw(tensor) for tensor in request.inputs]
        message.raw_output_contents.extend(raws)
        return Answer(message, (*headers, *self.headers))

    async def _wait(self, request_id: str) -> None:
        self.entered.put_nowait(request_id)
        try:
            await self.release.wait()
        finally:
            self.left.put_nowait(request_id)

    def _refuse(self, target: Target) -> None:
        if target.name in self.failures:
            raise self.failures[target.name]
        if target.name not in ("echo", "slow"):
            raise UnknownResource(f'no {target.owner} "{target.name}"')

    async def ready(self, target: Target, version: str = "") -> bool:
        self._refuse(target)
        self.asked.append(version)
        return self.is_ready

    def unready(self, target: Target) -> str:
        return f"{target.name} is at rest"

    async def metadata(self, target: Target, version: str = "") -> Any:
        self._refuse(target)
        self.asked.append(version)
        message = messages.ModelMetadataResponse(name=target.name, versions=["1"], platform="fake")
        message.inputs.add(name="x", datatype="INT32", shape=[-1, 2])
        return message

    async def server_ready(self) -> bool:
        return self.is_ready


def _raw(tensor: Any) -> bytes:
    """Typed contents of the two datatypes that these tests send so."""
    from engine.protocol import tensors

    return tensors.typed_to_raw(tensor.contents, tensors.DATATYPES[tensor.datatype], tensor.shape, tensor.name)


class Served:
    """A running gateway and clients for it."""

    def __init__(
        self, inference: FakeInference, gateway: Gateway, session: aiohttp.ClientSession, figures: Figures
    ) -> None:
        self.inference, self.gateway, self.session, self.figures = inference, gateway, session, figures
        host, port = gateway.address
        self.host, self.port = host, port
        self.url, self.authority = f"http://{host}:{port}", f"{host}:{port}"
        self.channel = grpc.aio.insecure_channel(
            self.authority,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def unary(self, method: str, response: Any, service: str = messages.SERVICE) -> Any:
        return self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    @property
    def infer(self) -> Any:
        return self.unary("ModelInfer", messages.ModelInferResponse)

    @property
    def stream(self) -> Any:
        return self._stream(messages.ModelInferResponse)

    @property
    def triton_stream(self) -> Any:
        return self._stream(messages.ModelStreamInferResponse)

    def _stream(self, response: Any) -> Any:
        return self.channel.stream_stream(
            f"/{messages.SERVICE}/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )


@contextlib.asynccontextmanager
async def running(limit: int = LIMIT, request_timeout: float = 30.0) -> AsyncIterator[Served]:
    inference = FakeInference()
    figures = Figures()
    gateway = Gateway(inference, max_message_bytes=limit, request_timeout=request_timeout, figures=figures)
    await gateway.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        served = Served(inference, gateway, session, figures)
        try:
            yield served
        finally:
            await served.channel.close()
            await gateway.stop(0)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with running() as it:
        yield it


@pytest.fixture
async def small() -> AsyncIterator[Served]:
    """A gateway that takes requests of up to 1000 bytes."""
    async with running(limit=1000) as it:
        yield it


@pytest.fixture
def document() -> dict[str, Any]:
    """A V2 request as REST callers write it."""
    return {"id": "7", "inputs": [{"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture
def typed() -> Any:
    """The same as a message with typed contents."""
    message = messages.ModelInferRequest(model_name="echo", id="7")
    tensor = message.inputs.add(name="x", datatype="INT32", shape=[1, 2])
    tensor.contents.int_contents.extend([1, 2])
    return message


@pytest.fixture
def raw() -> Any:
    """The same with raw contents."""
    message = messages.ModelInferRequest(model_name="echo", id="7")
    message.inputs.add(name="x", datatype="INT32", shape=[1, 2])
    message.raw_input_contents.append(b"\1\0\0\0\2\0\0\0")
    return message


def failures() -> list[tuple[RequestError, int, grpc.StatusCode]]:
    """Every error with its statuses, as design.md's section 7 has them."""
    from engine import errors

    code = grpc.StatusCode
    return [
        (errors.InvalidInput("bad"), 400, code.INVALID_ARGUMENT),
        (errors.UnknownResource("none"), 404, code.NOT_FOUND),
        (errors.NoOutput("no output"), 400, code.FAILED_PRECONDITION),
        (errors.NoAnswer("not taken"), 422, code.FAILED_PRECONDITION),
        (errors.TooManyVisits("round and round"), 422, code.FAILED_PRECONDITION),
        (errors.TooLarge("large"), 413, code.RESOURCE_EXHAUSTED),
        (errors.Overloaded("many"), 429, code.RESOURCE_EXHAUSTED),
        (errors.ModelFailed("it broke", step="score"), 500, code.INTERNAL),
        (errors.Unreachable("gone"), 503, code.UNAVAILABLE),
        (errors.TimedOut("late"), 504, code.DEADLINE_EXCEEDED),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a `failure` once for each kind of error."""
    if "failure" in metafunc.fixturenames:
        metafunc.parametrize("failure", failures(), ids=lambda failure: type(failure[0]).__name__)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """On the loop that the product runs on, whose transports read earlier than asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}
