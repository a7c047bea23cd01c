"""A page on a free port with stand-ins for what it shows."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from engine.errors import Overloaded, UnknownResource
from engine.gateway.inference import Answer, Target
from engine.kafka.view import View
from engine.protocol.messages import ModelInferResponse, ModelMetadataResponse
from engine.protocol.record import Topics
from engine.settings import Settings
from engine.telemetry.figures import Figures
from engine.ui.server import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeInference:
    """NOT the product's data plane: answers model "echo" with its inputs, others as a test asks; "none" is unknown."""

    def __init__(self) -> None:
        self.failures: dict[str, Exception] = {}
        self.release = asyncio.Event()
        self.metadatas: dict[str, Any] = {}
        self.count = 0
        self.is_full = False

    def new_request_id(self) -> str:
        self.count += 1
        return f"made-{self.count}"

    def check_room(self, _: Target) -> None:
        if self.is_full:
            raise Overloaded("it is full")

    async def infer(self, target: Target, request: Any, headers: Any, *, request_id: str, timeout: float) -> Answer:  # noqa: ARG002
        if target.name == "slow":
            await self.release.wait()
        if target.name in self.failures:
            raise self.failures[target.name]
        response = ModelInferResponse(model_name=target.name, raw_output_contents=request.raw_input_contents[:])
        for tensor in request.inputs:
            response.outputs.add().MergeFromString(tensor.SerializeToString())
        return Answer(response, ())

    async def ready(self, target: Target, version: str = "") -> bool:  # noqa: ARG002  a stand-in has but one
        if target.name == "none":
            raise UnknownResource("no such thing is loaded")
        return True

    async def metadata(self, target: Target, version: str = "") -> Any:  # noqa: ARG002  a stand-in has but one
        await self.ready(target)
        return self.metadatas.get(target.name, ModelMetadataResponse(name=target.name))

    async def server_ready(self) -> bool:
        return True


@dataclass
class Shown:
    """A page that is served."""

    page: Page
    inference: FakeInference
    figures: Figures
    view: View
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of a call below /ui/api/."""
        async with self.session.request(method, f"{self.page.url}api/{path}", **options) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        return await self.call("GET", path)

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        async with self.session.get(f"{self.page.url}api/{path}") as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            name = ""
            async for line in response.content:
                word, _, rest = line.decode().rstrip("\n").partition(": ")
                if word == "event":
                    name = rest
                elif word == "data":
                    yield name, orjson.loads(rest)


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    inference, figures, view = FakeInference(), Figures(), View()
    page = Page(Settings(namespace="ns"), Topics("seldon", "ns"), view, figures, inference)
    await page.start("127.0.0.1", 0)
    try:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Shown(page, inference, figures, view, session)
    finally:
        with contextlib.suppress(RuntimeError):
            await page.stop()
