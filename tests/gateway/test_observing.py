from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from engine.errors import InvalidSettings, RequestError
from engine.gateway.observing import Window
from engine.protocol.record import Owner
from engine.telemetry.figures import Figures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Failure = tuple[RequestError, int, grpc.StatusCode]


def counted(served: Any, owner: Owner) -> dict[tuple[str, str, str], int]:
    return {key: found.count for key, found in served.figures.answers[owner].items()}


async def test_a_rest_call_is_counted_with_its_status(served: Any, document: dict[str, Any]) -> None:
    async with served.session.post(f"{served.url}/v2/pipelines/echo/infer", json=document) as response:
        assert response.status == 200
    assert counted(served, Owner.PIPELINE) == {("echo", "rest", "200"): 1}
    assert served.figures.calls == {"rest": 0, "grpc": 0}


async def test_a_grpc_call_is_counted_with_its_status(served: Any, raw: Any) -> None:
    await served.infer(raw)
    assert counted(served, Owner.MODEL) == {("echo", "grpc", "OK"): 1}
    assert served.figures.calls == {"rest": 0, "grpc": 0}


async def test_failures_of_each_kind_are_counted_through_both_doors(
    served: Any, document: dict[str, Any], raw: Any, failure: Failure
) -> None:
    error, http, rpc = failure
    served.inference.failures["broken"] = error
    async with served.session.post(f"{served.url}/v2/models/broken/infer", json=document) as response:
        assert response.status == http
    raw.model_name = "broken"
    with pytest.raises(grpc.aio.AioRpcError):
        await served.infer(raw)
    assert counted(served, Owner.MODEL) == {("broken", "rest", str(http)): 1, ("broken", "grpc", rpc.name): 1}


async def test_a_body_that_is_no_request_is_counted_too(served: Any) -> None:
    async with served.session.post(f"{served.url}/v2/models/echo/infer", data=b"{") as response:
        assert response.status == 400
    assert counted(served, Owner.MODEL) == {("echo", "rest", "400"): 1}


async def test_calls_are_in_flight_until_they_are_answered(served: Any, raw: Any) -> None:
    raw.model_name = "slow"
    call = served.infer(raw)
    await served.inference.entered.get()
    async with served.session.get(f"{served.url}/metrics") as response:
        body = await response.text()
    assert 'seldon_gateway_requests_in_flight{method_type="grpc"} 1.0' in body
    served.inference.release.set()
    await call
    assert served.figures.calls["grpc"] == 0


async def test_a_caller_that_goes_away_is_counted_as_gone(served: Any, raw: Any) -> None:
    raw.model_name = "slow"
    call = served.infer(raw)
    await served.inference.entered.get()
    call.cancel()
    await served.inference.left.get()
    assert counted(served, Owner.MODEL) == {("slow", "grpc", "CANCELLED"): 1}


async def test_the_broker_is_healthy_until_somebody_says_what_is_wrong(served: Any) -> None:
    async with served.session.get(f"{served.url}/v2/health/kafka") as response:
        assert (response.status, await response.json()) == (200, {"ready": True})
    served.figures.kafka = lambda: "no broker answers at localhost:9092"
    async with served.session.get(f"{served.url}/v2/health/kafka") as response:
        assert (response.status, await response.json()) == (503, {"error": "no broker answers at localhost:9092"})


@pytest.fixture
async def window() -> AsyncIterator[Window]:
    it = Window(Figures())
    await it.start("127.0.0.1", 0)
    yield it
    await it.stop()


@pytest.mark.parametrize("path", ["/metrics", "/v2/health/live", "/v2/health/kafka"])
async def test_a_process_without_a_gateway_answers_what_operators_ask(window: Window, path: str) -> None:
    host, port = window.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as response:
        assert response.status == 200


async def test_an_address_that_is_taken_is_refused_by_its_setting(window: Window) -> None:
    second = Window(Figures())
    with pytest.raises(InvalidSettings, match=r"metrics_listen is 127\.0\.0\.1:\d+, which cannot be listened on"):
        await second.start(*window.address)
    await second.stop()
