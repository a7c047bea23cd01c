"""Plans driven where an experiment splits the calls of a step: models are functions of this file, and no Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.calls import Way
from engine.dataflow.plan import ENTRY, Edge, Node, Plan, single_model
from engine.errors import ModelFailed
from engine.execution import Execution, Request
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner, Side, Topics, sort_out
from engine.protocol.routes import ROUTE, named
from engine.resources import Batch
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.protocol.record import HeaderPairs, Headers

START = Edge(ENTRY, Side.INPUTS)
BATCHED = Node("a", (START,), batch=Batch(size=2))
NODES = (Node("p"), Node("a", (START,)), Node("b", (Edge(1, Side.OUTPUTS),)), Node("p", (Edge(2, Side.OUTPUTS),)))
CHAIN = Plan("p", NODES, output=True)

ANSWERS, REPLIES, MIRRORED = "seldon.ns.pipeline.p.outputs", "seldon.ns.replies", "seldon.ns.model.shadow.inputs"
REPLY = ("seldon-reply", b"0.elsewhere.1")


class FakeModel:
    """Marked as such: adds a number, or fails; `sizes` has how many rows each of its calls had."""

    def __init__(self, number: int | None) -> None:
        self._number = number
        self.sizes: list[int] = []
        self.headers: list[HeaderPairs] = []

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        del timeout
        self.sizes.append(len(columns))
        self.headers += headers
        rows = range(len(columns))
        if self._number is None:
            yield Part(rows, ModelFailed("it broke"))
        else:
            yield Part(rows, Columns(columns.ids, columns.specs, (columns.cells[0] + self._number,)))


class FakeSplits:
    """NOT the registry: calls of `a` go to these models in turn, and each is copied to these mirrors in turn."""

    def __init__(self, *models: str, mirrors: Sequence[str | None] = ()) -> None:
        self._models, self._mirrors = iter(models), iter(mirrors)

    def is_split(self, model: str) -> bool:
        return model == "a"

    def way(self, model: str, headers: HeaderPairs) -> Way:
        assert model == "a"
        return self._way(
            next((name for name in named(headers, Owner.MODEL) if name != "b"), None) or next(self._models)
        )

    def mirror(self, model: str) -> Way | None:
        assert model == "a"
        name = next(self._mirrors, None)
        return None if name is None else self._way(name)

    def route(self, model: str) -> bytes | None:
        return None if model == "a" else f":{model}_1:".encode()

    def _way(self, name: str) -> Way:
        return Way(name, ((ROUTE, f":{name}_1:".encode()),))


class Bench:
    """An execution where `a` adds 1, its rival 100 and `b` 1000, and `broken` fails."""

    def __init__(self, splits: FakeSplits, plan: Plan = CHAIN, owner: Owner = Owner.PIPELINE) -> None:
        self.models = {"a": FakeModel(1), "rival": FakeModel(100), "b": FakeModel(1000), "broken": FakeModel(None)}
        self.finished: list[Request] = []
        self.execution = Execution(
            plan,
            1,
            owner,
            Topics("seldon", "ns"),
            self.models.__getitem__,  # type: ignore[arg-type]
            self.finished.extend,
            lambda _: None,
            timeout=5.0,
            batch_max_wait=3600.0,
            max_message_bytes=1 << 20,
            new_request_id=lambda: "made",
            splits=splits,
        )

    async def run(self, *numbers: int, headers: Headers = ()) -> list[Request]:
        """Requests with one number each, when they are done."""
        requests = [
            self.execution.new_request(None, 0, place, b"k", sort_out((*headers, REPLY)), 0)
            for place in range(len(numbers))
        ]
        cells = np.array([numbers], "<i8").T
        self.execution.begin(requests, Columns([b""] * len(numbers), (TensorSpec("x", "INT64", (1,)),), (cells,)))
        async with asyncio.timeout(5):
            await self.execution.drain()
        assert len(self.finished) == len(numbers)
        return requests


def answer(request: Request) -> int:
    [value] = [value for topic, _, value, _ in request.records if topic == ANSWERS]
    return int.from_bytes(ModelInferResponse.FromString(value).raw_output_contents[0], "little")


def routes(request: Request, topic: str) -> list[bytes | None]:
    """Of a request's only record on a topic."""
    [headers] = [headers for found, _, _, headers in request.records if found == topic]
    return [value for name, value in headers if name == ROUTE]


async def test_each_request_of_a_call_goes_its_own_way() -> None:
    bench = Bench(FakeSplits("a", "rival", "a", "a"))
    requests = await bench.run(1, 2, 3, 4)
    assert [answer(request) for request in requests] == [1002, 1102, 1004, 1005]
    assert (bench.models["a"].sizes, bench.models["rival"].sizes) == ([3], [1])


async def test_the_steps_records_are_on_the_topics_of_the_step_and_say_who_answered() -> None:
    [request] = await Bench(FakeSplits("rival")).run(1)
    assert routes(request, "seldon.ns.model.a.inputs") == []
    for topic in ("seldon.ns.model.a.outputs", "seldon.ns.model.b.inputs", ANSWERS):
        assert routes(request, topic) == [b":rival_1:"]


async def test_the_reply_names_every_model_that_answered() -> None:
    [request] = await Bench(FakeSplits("rival")).run(1)
    assert routes(request, REPLIES) == [b":rival_1:", b":b_1:"]


async def test_a_request_takes_the_route_that_it_asks_for_and_tells_what_it_took_alone() -> None:
    bench = Bench(FakeSplits("a"))
    [request] = await bench.run(1, headers=((ROUTE, b":rival_7:"), (ROUTE, b":p.pipeline:")))
    assert answer(request) == 1101
    assert routes(request, ANSWERS) == [b":rival_1:"]
    assert named(bench.models["rival"].headers[0], Owner.MODEL) == frozenset()


async def test_a_model_that_fails_is_told_by_its_own_name() -> None:
    [request] = await Bench(FakeSplits("broken")).run(1)
    [headers] = [dict(headers) for topic, _, _, headers in request.records if topic == ANSWERS]
    assert headers["seldon-pipeline-errors"] == b"broken"
    assert routes(request, REPLIES) == [b":broken_1:"]


async def test_requests_of_a_batch_are_answered_by_one() -> None:
    plan = Plan("p", (NODES[0], BATCHED, *NODES[2:]), output=True)
    bench = Bench(FakeSplits("rival", "a"), plan)
    requests = await bench.run(1, 2)
    assert [answer(request) for request in requests] == [1101, 1102]
    assert [routes(request, ANSWERS) for request in requests] == [[b":rival_1:"]] * 2


async def test_a_batch_that_fails_as_one_is_called_for_each_request_alone() -> None:
    plan = Plan("p", (NODES[0], BATCHED, *NODES[2:]), output=True)
    requests = await Bench(FakeSplits("broken", "a", "rival"), plan).run(1, 2)
    assert [answer(request) for request in requests] == [1002, 1102]


async def test_a_mirror_gets_a_copy_of_what_the_step_got() -> None:
    bench = Bench(FakeSplits("a", "rival", mirrors=[None, "shadow"]))
    first, second = await bench.run(1, 2, headers=(("x-a", b"1"), ("x-request-id", b"r")))
    assert MIRRORED not in [topic for topic, *_ in first.records]
    [(partition, value, headers)] = [rest for topic, *rest in second.records if topic == MIRRORED]
    message = ModelInferRequest.FromString(value)
    assert (partition, message.model_name, message.raw_input_contents[0][0]) == (0, "shadow", 2)
    assert headers == [("x-a", b"1"), ("x-request-id", b"r"), (ROUTE, b":shadow_1:")]
    assert "shadow" not in bench.models


@pytest.mark.parametrize(("asked", "copies"), [((), 1), (((ROUTE, b":a_1:"),), 0)])
async def test_a_model_that_is_called_by_kafka_is_mirrored_unless_a_gateway_has_done_so(
    asked: Headers, copies: int
) -> None:
    bench = Bench(FakeSplits("a", mirrors=["shadow"]), single_model("a"), Owner.MODEL)
    [request] = await bench.run(1, headers=asked)
    assert [topic for topic, *_ in request.records].count(MIRRORED) == copies


async def test_a_copy_that_would_be_too_large_is_not_written() -> None:
    bench = Bench(FakeSplits("a", mirrors=["s" * 63]))
    bench.execution._max_message_bytes = 80
    [request] = await bench.run(1)
    assert answer(request) == 1002
    assert not [topic for topic, *_ in request.records if "sss" in topic]
