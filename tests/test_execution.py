"""Plans driven with fake runtimes: models that are functions of this file, and no Kafka."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.dataflow.plan import ENTRY, Edge, Node, Plan, single_model
from engine.errors import InvalidInput, ModelFailed, RequestError, TooLarge
from engine.execution import Execution, Request
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner, Side, Topics, sort_out
from engine.resources import Batch, Join
from engine.runtimes.contract import Part
from engine.telemetry.figures import Flow
from engine.telemetry.spans import Spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from engine.execution import Callers
    from engine.protocol.record import HeaderPairs, ReplyAddress

START = Edge(ENTRY, Side.INPUTS)
CHAIN = Plan(
    "fraud",
    (Node("fraud"), Node("a", (START,)), Node("b", (Edge(1, Side.OUTPUTS),)), Node("fraud", (Edge(2, Side.OUTPUTS),))),
    output=True,
)
ASIDE = Plan(
    "fraud",
    (Node("fraud"), Node("a", (START,)), Node("b", (START,)), Node("fraud", (Edge(1, Side.OUTPUTS),))),
    output=True,
)
NO_OUTPUT = Plan("fraud", (Node("fraud"), Node("a", (START,))), output=False)
UNTAKEN = Plan(
    "fraud",
    (Node("fraud"), Node("a", (START,)), Node("fraud", (Edge(1, Side.OUTPUTS, ("other",)),))),
    output=True,
)

ERRORS, REPLIES = "seldon.ns.errors.errors", "seldon.ns.replies"
ANSWERS = "seldon.ns.pipeline.fraud.outputs"


def columns(*rows: int) -> Columns:
    return Columns(
        [b"\x1a\x01%d" % row for row in rows], (TensorSpec("x", "INT64", (1,)),), (np.array([rows], "<i8").T,)
    )


def plus(columns: Columns, number: int) -> Columns:
    return Columns(columns.ids, columns.specs, (columns.cells[0] + number,))


class FakeRuntime:
    """Marked as such: computes with a function of this file, in the order that the function yields."""

    def __init__(self, infer: Callable[[Columns, Sequence[HeaderPairs]], AsyncIterator[Part]]) -> None:
        self._infer = infer

    def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        del timeout
        return self._infer(columns, headers)


def adding(number: int, *, added: tuple[tuple[str, bytes], ...] = ()) -> FakeRuntime:
    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        rows = range(len(columns))
        yield Part(rows, plus(columns, number), [added] * len(rows) if added else None)

    return FakeRuntime(infer)


def failing(error: Exception) -> FakeRuntime:
    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        if not isinstance(error, RequestError):
            raise error
        yield Part(range(len(columns)), error)

    return FakeRuntime(infer)


def giving(*parts: Part) -> FakeRuntime:
    async def infer(_columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        for part in parts:
            yield part

    return FakeRuntime(infer)


class Bench:
    """An execution with fake runtimes by name, and the requests it has finished."""

    def __init__(
        self,
        plan: Plan,
        owner: Owner = Owner.PIPELINE,
        *,
        most_bytes: int = 1 << 20,
        callers: Callers | None = None,
        flow: Flow | None = None,
        **runtimes: FakeRuntime,
    ) -> None:
        self.finished: list[Request] = []
        self.early: list[tuple[Request, list[str]]] = []
        self.news = asyncio.Event()
        self.flow = Flow() if flow is None else flow
        self.execution = Execution(
            plan,
            3,
            owner,
            Topics("seldon", "ns"),
            runtimes.__getitem__,  # type: ignore[arg-type]
            self._take,
            self._take_early,
            timeout=5.0,
            batch_max_wait=60.0,
            max_message_bytes=most_bytes,
            new_request_id=lambda: "made-here",
            callers=callers,
            flow=self.flow,
        )

    def _take_early(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.early.append((request, [topic for topic, *_ in request.records]))
            request.records = []
        self.news.set()

    def _take(self, requests: Sequence[Request]) -> None:
        self.finished.extend(requests)
        self.news.set()

    def request(self, *headers: tuple[str, bytes | None], offset: int = 0) -> Request:
        return self.execution.new_request("origin", 2, offset, b"key", sort_out(headers), 10)

    async def run(self, request: Request, row: int = 1) -> Request:
        self.execution.begin([request], columns(row))
        await self.execution.drain()
        assert self.finished == [request]
        return request

    async def until_finished(self, count: int) -> None:
        """Wait for so many requests without making anything go faster, as a drain would."""
        while len(self.finished) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 5)


def topics(request: Request) -> list[str]:
    return [topic for topic, _, _, _ in request.records]


def record(request: Request, topic: str) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """Value and headers of the only record of a topic."""
    [(value, headers)] = [(value, headers) for name, _, value, headers in request.records if name == topic]
    return value, headers


def numbers(value: bytes, message: Any = ModelInferResponse) -> list[int]:
    read = message.FromString(value)
    raws = read.raw_input_contents if message is ModelInferRequest else read.raw_output_contents
    return [int.from_bytes(raw, "little") for raw in raws]


async def test_every_step_writes_its_inputs_and_outputs_and_the_pipeline_its_answer() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    assert topics(request) == [
        "seldon.ns.model.a.inputs",
        "seldon.ns.model.a.outputs",
        "seldon.ns.model.b.inputs",
        "seldon.ns.model.b.outputs",
        ANSWERS,
    ]


async def test_records_hold_what_passed() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    assert numbers(record(request, "seldon.ns.model.b.inputs")[0], ModelInferRequest) == [11]
    assert numbers(record(request, ANSWERS)[0]) == [111]


async def test_messages_are_named_after_their_model_and_keep_the_id() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    step = ModelInferResponse.FromString(record(request, "seldon.ns.model.a.outputs")[0])
    answer = ModelInferResponse.FromString(record(request, ANSWERS)[0])
    assert [(m.model_name, m.id) for m in (step, answer)] == [("a", "1"), ("fraud", "1")]


async def test_records_stay_in_the_requests_partition() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    assert {partition for _, partition, _, _ in request.records} == {2}


async def test_records_of_steps_name_pipeline_version_request_and_step() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("x-request-id", b"mine")))
    assert record(request, "seldon.ns.model.b.inputs")[1] == [
        ("x-request-id", b"mine"),
        ("pipeline", b"fraud"),
        ("x-pipeline-version", b"3"),
        ("seldon-step", b"b"),
    ]


async def test_the_answer_names_no_step() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("x-request-id", b"mine")))
    assert [name for name, _ in record(request, ANSWERS)[1]] == ["x-request-id", "pipeline", "x-pipeline-version"]


@pytest.mark.parametrize("brought", [(), (("x-request-id", None),)])
async def test_a_request_without_an_id_gets_one(brought: tuple[tuple[str, bytes | None], ...]) -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(*brought))
    ids = [value for name, value in record(request, ANSWERS)[1] if name == "x-request-id"]
    assert ids == [b"made-here"]


async def test_headers_travel_in_their_order_with_repeats_and_without_reserved_ones() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    brought = (
        ("x-b", b"1"),
        ("pipeline", b"other"),
        ("x-request-id", b"r"),
        ("seldon-model", b"m"),
        ("x-a", b"2"),
        ("x-pipeline-version", b"9"),
        ("x-b", b"\xff"),
        ("traceparent", None),
    )
    request = await bench.run(bench.request(*brought))
    assert record(request, "seldon.ns.model.a.inputs")[1][:-3] == [
        ("x-b", b"1"),
        ("x-request-id", b"r"),
        ("x-a", b"2"),
        ("x-b", b"\xff"),
        ("traceparent", None),
    ]


async def test_headers_that_a_model_adds_travel_on() -> None:
    bench = Bench(CHAIN, a=adding(10, added=(("x-route", b"left"),)), b=adding(100))
    request = await bench.run(bench.request())
    has = {topic: ("x-route", b"left") in headers for topic, _, _, headers in request.records}
    assert list(has.values()) == [False, True, True, True, True]


async def test_a_model_cannot_add_reserved_headers() -> None:
    bench = Bench(CHAIN, a=adding(10, added=(("pipeline", b"other"), ("seldon-reply", b"0.x.1"))), b=adding(100))
    request = await bench.run(bench.request())
    assert [value for name, value in record(request, ANSWERS)[1] if name == "pipeline"] == [b"fraud"]
    assert "seldon-reply" not in dict(record(request, ANSWERS)[1])


async def test_an_answer_goes_to_the_caller_who_waits_too() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("seldon-reply", b"5.gw.7")))
    [(partition, value, headers)] = [(p, v, h) for topic, p, v, h in request.records if topic == REPLIES]
    assert (partition, numbers(value), dict(headers)["seldon-reply"]) == (5, [111], b"5.gw.7")


async def test_an_address_that_no_gateway_wrote_is_not_replied_to() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    assert REPLIES not in topics(await bench.run(bench.request(("seldon-reply", b"nonsense"))))


class FakeCallers:
    """Marked as such: a gateway of this process, `here`."""

    def __init__(self) -> None:
        self.given: list[tuple[bytes, dict[str, bytes | None]]] = []

    def wait_here(self, address: ReplyAddress) -> bool:
        return address.instance == "here"

    def hand_over(self, value: bytes, headers: HeaderPairs) -> None:
        self.given.append((value, dict(headers)))


async def test_a_caller_in_this_process_is_told_when_the_records_are_written_and_not_by_one() -> None:
    callers = FakeCallers()
    bench = Bench(CHAIN, callers=callers, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("seldon-reply", b"5.here.7")))
    assert REPLIES not in topics(request)
    assert callers.given == []
    assert request.tell is not None
    request.tell()
    [(value, headers)] = callers.given
    assert (numbers(value), headers["seldon-reply"]) == ([111], b"5.here.7")


async def test_a_caller_in_another_process_is_told_by_a_record() -> None:
    bench = Bench(CHAIN, callers=FakeCallers(), a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("seldon-reply", b"5.there.7")))
    assert (REPLIES in topics(request), request.tell) == (True, None)


async def test_a_failure_is_told_on_the_errors_topic_and_instead_of_the_answer() -> None:
    bench = Bench(CHAIN, a=failing(ModelFailed("broken")), b=adding(100))
    request = await bench.run(bench.request())
    assert topics(request) == ["seldon.ns.model.a.inputs", ERRORS, ANSWERS]
    assert record(request, ERRORS) == record(request, ANSWERS)


async def test_an_error_names_its_step_and_code() -> None:
    bench = Bench(CHAIN, a=adding(1), b=failing(InvalidInput("refused")))
    value, headers = record(await bench.run(bench.request()), ANSWERS)
    assert value == b"refused"
    marks = [("seldon-pipeline-errors", b"b"), ("seldon-error-code", b"INVALID_ARGUMENT"), ("seldon-offset", b"0")]
    assert headers[-3:] == marks
    assert ("x-pipeline-version", b"3") in headers


async def test_a_failure_is_replied() -> None:
    bench = Bench(CHAIN, a=failing(ModelFailed("broken")), b=adding(100))
    value, headers = record(await bench.run(bench.request(("seldon-reply", b"5.gw.7"))), REPLIES)
    assert (value, dict(headers)["seldon-error-code"]) == (b"broken", b"INTERNAL")


async def test_a_branch_not_taken_writes_no_answer_and_no_error() -> None:
    bench = Bench(UNTAKEN, a=adding(1))
    assert topics(await bench.run(bench.request())) == ["seldon.ns.model.a.inputs", "seldon.ns.model.a.outputs"]


async def test_a_caller_whose_branch_was_not_taken_is_told_what_is_missing() -> None:
    bench = Bench(UNTAKEN, a=adding(1))
    value, headers = record(await bench.run(bench.request(("seldon-reply", b"5.gw.7"))), REPLIES)
    assert b'a.outputs gave x and not "other"' in value
    assert dict(headers)["seldon-error-code"] == b"FAILED_PRECONDITION"


async def test_a_failure_off_the_way_to_the_output_does_not_replace_the_answer() -> None:
    bench = Bench(ASIDE, a=adding(1), b=failing(ModelFailed("broken")))
    request = await bench.run(bench.request())
    [(early, written)] = bench.early
    assert (early, written.count(ANSWERS)) == (request, 1)
    assert ANSWERS not in topics(request)
    assert record(request, ERRORS)[0] == b"broken"


async def test_a_pipeline_without_an_output_writes_only_its_steps() -> None:
    bench = Bench(NO_OUTPUT, a=adding(1))
    assert topics(await bench.run(bench.request())) == ["seldon.ns.model.a.inputs", "seldon.ns.model.a.outputs"]


async def test_a_caller_of_a_pipeline_without_an_output_does_not_wait() -> None:
    bench = Bench(NO_OUTPUT, a=adding(1))
    value, _ = record(await bench.run(bench.request(("seldon-reply", b"5.gw.7"))), REPLIES)
    assert value == b'pipeline "fraud" has no output'


async def test_a_failure_without_an_output_is_told_once_on_each_topic() -> None:
    bench = Bench(NO_OUTPUT, a=failing(ModelFailed("broken")))
    assert topics(await bench.run(bench.request())) == ["seldon.ns.model.a.inputs", ERRORS, ANSWERS]


async def test_a_request_that_cannot_be_read_is_an_error_of_the_pipeline() -> None:
    bench = Bench(CHAIN)
    request = bench.request(("seldon-reply", b"5.gw.7"))
    bench.execution.refuse(request, InvalidInput("no message"))
    assert topics(request) == [ERRORS, ANSWERS, REPLIES]
    assert dict(record(request, ERRORS)[1])["seldon-pipeline-errors"] == b"fraud"
    assert bench.finished == [request]


async def test_an_oversized_message_ends_the_request_with_an_error_and_none_of_its_records() -> None:
    bench = Bench(CHAIN, most_bytes=5, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    assert topics(request) == [ERRORS, ANSWERS]
    assert record(request, ERRORS)[0] == b"a message is over the limit of 5 bytes"
    assert dict(record(request, ERRORS)[1])["seldon-error-code"] == b"RESOURCE_EXHAUSTED"


async def test_what_the_broker_refuses_is_replaced_by_an_error() -> None:
    bench = Bench(CHAIN, a=failing(ModelFailed("broken")), b=adding(100))
    request = await bench.run(bench.request(("x-a", b"1"), ("seldon-reply", b"5.gw.7")))
    bench.execution.replace(request, TooLarge("too large"))
    assert topics(request) == [ERRORS, ANSWERS, REPLIES]
    assert [value for _, _, value, _ in request.records] == [b"too large"] * 3
    assert ("x-a", b"1") in record(request, ERRORS)[1]


async def test_headers_that_may_be_what_the_broker_refused_are_not_repeated() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = await bench.run(bench.request(("x-large", b"." * 100_000)))
    bench.execution.replace(request, TooLarge("too large"))
    names = [name for name, _ in record(request, ERRORS)[1]]
    assert names[:3] == ["x-request-id", "pipeline", "x-pipeline-version"]


async def test_a_request_that_came_as_json_is_answered_as_json() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = bench.request()
    request.json = True
    value, headers = record(await bench.run(request), ANSWERS)
    assert json.loads(value)["outputs"] == [{"name": "x", "shape": [1], "datatype": "INT64", "data": [111]}]
    assert headers[-1] == ("seldon-infer-type", b"json/inferModelResponse")


async def test_an_answer_that_is_over_the_limit_in_json_only_is_an_error() -> None:
    bench = Bench(CHAIN, most_bytes=60, a=adding(10), b=adding(100))
    assert numbers(record(await bench.run(bench.request()), ANSWERS)[0]) == [111]
    bench = Bench(CHAIN, most_bytes=60, a=adding(10), b=adding(100))
    request = bench.request()
    request.json = True
    value, headers = record(await bench.run(request), ANSWERS)
    assert (value, dict(headers)["seldon-error-code"]) == (
        b"a message is over the limit of 60 bytes",
        b"RESOURCE_EXHAUSTED",
    )


async def test_the_gateway_gets_a_message_even_for_a_request_that_came_as_json() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    request = bench.request(("seldon-reply", b"5.gw.7"))
    request.json = True
    assert numbers(record(await bench.run(request), REPLIES)[0]) == [111]


async def test_a_runtime_that_raises_ends_the_request() -> None:
    bench = Bench(CHAIN, a=failing(ValueError("slip")), b=adding(100))
    assert record(await bench.run(bench.request()), ANSWERS)[0] == b"ValueError: slip"


async def test_a_model_that_is_not_there_ends_the_request() -> None:
    bench = Bench(CHAIN)
    assert record(await bench.run(bench.request()), ANSWERS)[0] == b"KeyError: 'a'"


WRONG = {
    "no rows": giving(),
    "fewer answers than rows": giving(Part([0], columns())),
    "more answers than rows": giving(Part([0], columns(1, 2))),
    "rows nobody asked for": giving(Part([0, 1], columns(1, 2))),
    "a row twice in a part": giving(Part([0, 0], columns(1, 2))),
    "headers for other rows": giving(Part([0], columns(1), [(), ()])),
    "a datatype that is none": giving(Part([0], Columns([b""], (TensorSpec("x", "NONE", ()),), (np.zeros(1),)))),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_runtime_that_breaks_its_contract_ends_the_request(wrong: str) -> None:
    bench = Bench(CHAIN, a=WRONG[wrong], b=adding(100))
    request = await bench.run(bench.request())
    assert dict(record(request, ANSWERS)[1])["seldon-error-code"] == b"INTERNAL"


async def test_a_row_that_is_answered_twice_is_finished_once() -> None:
    bench = Bench(single_model("m"), Owner.MODEL, m=giving(Part([0], columns(1)), Part([0], columns(2))))
    request = await bench.run(bench.request())
    assert numbers(record(request, "seldon.ns.model.m.outputs")[0]) == [1]


async def test_rows_that_a_runtime_forgets_end_without_the_others() -> None:
    bench = Bench(single_model("m"), Owner.MODEL, m=giving(Part([1], columns(5))))
    first, second = bench.request(), bench.request()
    bench.execution.begin([first, second], columns(1, 2))
    await bench.execution.drain()
    assert bench.finished == [second, first]
    assert record(first, ERRORS)[0] == b'the runtime of model "m" gave no answer'


class Refusal(InvalidInput):
    """A model's own kind of refusal, made in its own way."""

    def __init__(self) -> None:
        Exception.__init__(self, "not\udcff so")


async def test_an_error_of_a_models_own_kind_is_told_as_ours() -> None:
    bench = Bench(CHAIN, a=failing(Refusal()), b=adding(100))
    value, headers = record(await bench.run(bench.request()), ANSWERS)
    assert (value, dict(headers)["seldon-error-code"]) == (b"not? so", b"INVALID_ARGUMENT")


async def test_a_long_error_is_cut() -> None:
    bench = Bench(CHAIN, a=failing(ModelFailed("." * 1_000_000)), b=adding(100))
    assert len(record(await bench.run(bench.request()), ANSWERS)[0]) < 11_000


async def test_a_slow_request_does_not_hold_up_its_neighbours() -> None:
    let_go = asyncio.Event()

    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        yield Part([1], plus(columns.take([1]), 10))
        await let_go.wait()
        yield Part([0], plus(columns.take([0]), 10))

    bench = Bench(CHAIN, a=FakeRuntime(infer), b=adding(100))
    slow, fast = bench.request(), bench.request()
    bench.execution.begin([slow, fast], columns(1, 2))
    await asyncio.wait_for(bench.news.wait(), 5)
    assert bench.finished == [fast]
    let_go.set()
    await bench.execution.drain()
    assert [numbers(record(request, ANSWERS)[0]) for request in (slow, fast)] == [[111], [112]]


async def test_a_lone_model_writes_only_its_outputs_and_names_no_pipeline() -> None:
    bench = Bench(single_model("m"), Owner.MODEL, m=adding(1))
    request = await bench.run(bench.request(("x-request-id", b"r")))
    assert topics(request) == ["seldon.ns.model.m.outputs"]
    assert request.records[0][3] == [("x-request-id", b"r")]


async def test_a_lone_models_error_stands_on_its_outputs_topic() -> None:
    bench = Bench(single_model("m"), Owner.MODEL, m=failing(ModelFailed("broken")))
    assert topics(await bench.run(bench.request())) == [ERRORS, "seldon.ns.model.m.outputs"]


async def test_a_cancelled_execution_finishes_nothing() -> None:
    async def infer(_columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        await asyncio.Event().wait()
        yield Part([], columns())

    bench = Bench(single_model("m"), Owner.MODEL, m=FakeRuntime(infer))
    bench.execution.begin([bench.request()], columns(1))
    assert not bench.execution.idle
    bench.execution.cancel()
    await bench.execution.drain()
    assert bench.execution.idle
    assert bench.finished == []


EITHER = Plan(
    "fraud",
    (
        Node("fraud"),
        Node("a", (START,)),
        Node("b", (START,)),
        Node("fraud", (Edge(1, Side.OUTPUTS), Edge(2, Side.OUTPUTS)), Join.ANY),
    ),
    output=True,
)
WINDOWED = Plan("fraud", (*EITHER.nodes[:3], replace(EITHER.nodes[3], join=Join.OUTER, window=0.001)), output=True)


def held(gate: asyncio.Event) -> FakeRuntime:
    """Answers once the gate opens."""

    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        await gate.wait()
        yield Part(range(len(columns)), columns)

    return FakeRuntime(infer)


@pytest.mark.parametrize("plan", [EITHER, WINDOWED], ids=["any", "outer with a window"])
async def test_an_answer_does_not_wait_for_steps_that_still_run(plan: Plan) -> None:
    gate = asyncio.Event()
    bench = Bench(plan, a=adding(10), b=held(gate))
    request = bench.request(("seldon-reply", b"3.me.7"))
    bench.execution.begin([request], columns(1))
    await asyncio.wait_for(bench.news.wait(), 5)
    [(early, written)] = bench.early
    assert (early, bench.finished) == (request, [])
    assert {ANSWERS, REPLIES} <= set(written)
    gate.set()
    await bench.execution.drain()
    assert bench.finished == [request]
    assert topics(request) == ["seldon.ns.model.b.outputs"], "what was written early does not come again"


async def test_an_answer_that_comes_last_is_written_with_the_rest() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    await bench.run(bench.request())
    assert bench.early == []


async def test_a_triggered_step_runs_when_its_trigger_has_answered_and_takes_nothing_of_it() -> None:
    gated = Plan(
        "fraud",
        (
            Node("fraud"),
            Node("a", (START,)),
            Node("b", (START,), triggers=(Edge(1, Side.OUTPUTS),)),
            Node("fraud", (Edge(2, Side.OUTPUTS),)),
        ),
        output=True,
    )
    bench = Bench(gated, a=adding(10), b=adding(100))
    request = await bench.run(bench.request())
    assert numbers(record(request, "seldon.ns.model.b.inputs")[0], ModelInferRequest) == [1]
    assert numbers(record(request, ANSWERS)[0]) == [101]


BATCHED = Plan("fraud", (CHAIN.nodes[0], replace(CHAIN.nodes[1], batch=Batch(size=2)), *CHAIN.nodes[2:]), output=True)


async def test_callers_of_a_batch_get_their_own_answers_in_their_own_records() -> None:
    shapes: list[tuple[int, ...]] = []

    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        shapes.append(columns.cells[0].shape)  # type: ignore[union-attr]
        yield Part(range(len(columns)), plus(columns, 10))

    bench = Bench(BATCHED, a=FakeRuntime(infer), b=adding(100))
    first, second = bench.request(("x-request-id", b"1")), bench.request(("x-request-id", b"2"))
    bench.execution.begin([first], columns(1))
    bench.execution.begin([second], columns(2))
    await bench.until_finished(2)
    assert shapes == [(1, 2)]
    for request, number in ((first, 1), (second, 2)):
        assert topics(request) == [
            "seldon.ns.model.a.inputs",
            "seldon.ns.model.a.outputs",
            "seldon.ns.model.b.inputs",
            "seldon.ns.model.b.outputs",
            ANSWERS,
        ]
        assert numbers(record(request, "seldon.ns.model.a.inputs")[0], ModelInferRequest) == [number]
        assert numbers(record(request, "seldon.ns.model.a.outputs")[0]) == [number + 10]
        assert numbers(record(request, ANSWERS)[0]) == [number + 110]
        assert record(request, ANSWERS)[1][0] == ("x-request-id", b"%d" % number)
        assert ModelInferResponse.FromString(record(request, ANSWERS)[0]).id == str(number)


async def test_a_request_that_waits_in_a_batch_is_not_finished_and_a_drain_calls_it_at_once() -> None:
    bench = Bench(BATCHED, a=adding(10), b=adding(100))
    request = bench.request()
    bench.execution.begin([request], columns(1))
    assert (bench.execution.idle, bench.finished) == (False, [])
    assert topics(request) == ["seldon.ns.model.a.inputs"]
    await asyncio.wait_for(bench.execution.drain(), 5)
    assert bench.finished == [request]


async def test_a_request_that_waits_in_a_batch_never_finishes_after_a_cancel() -> None:
    bench = Bench(BATCHED, a=adding(10), b=adding(100))
    bench.execution.begin([bench.request()], columns(1))
    bench.execution.cancel()
    await bench.execution.drain()
    assert (bench.execution.idle, bench.finished) == (True, [])


async def test_one_bad_request_of_a_batch_fails_alone_and_is_told_so_once() -> None:
    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        for row in range(len(columns)):
            bad = 0 in columns.array(0, row)
            yield Part([row], InvalidInput("refused") if bad else plus(columns.take([row]), 10))

    bench = Bench(BATCHED, a=FakeRuntime(infer), b=adding(100))
    good, bad = bench.request(), bench.request()
    bench.execution.begin([good, bad], columns(1, 0))
    await bench.execution.drain()
    assert numbers(record(good, ANSWERS)[0]) == [111]
    assert topics(bad) == ["seldon.ns.model.a.inputs", ERRORS, ANSWERS]
    assert record(bad, ERRORS)[0] == b"refused"


async def test_a_batch_stands_behind_the_join_of_its_sources() -> None:
    joined = Plan(
        "fraud",
        (
            Node("fraud"),
            Node("a", (START,)),
            Node("b", (START,)),
            Node(
                "c",
                (Edge(1, Side.OUTPUTS), Edge(2, Side.OUTPUTS, renames=(("x", "y"),))),
                batch=Batch(size=2, window_ms=1),
            ),
            Node("fraud", (Edge(3, Side.OUTPUTS),)),
        ),
        output=True,
    )
    given: list[list[Any]] = []

    async def infer(columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        given.append([columns.array(index, 0).tolist() for index in range(len(columns.specs))])
        yield Part(range(len(columns)), Columns(columns.ids, columns.specs[:1], (columns.cells[0] + columns.cells[1],)))

    bench = Bench(joined, a=adding(10), b=adding(20), c=FakeRuntime(infer))
    requests = [bench.request(), bench.request()]
    for number, request in enumerate(requests):
        bench.execution.begin([request], columns(number))
    await bench.until_finished(2)
    assert given == [[[10, 11], [20, 21]]]
    assert [numbers(record(request, ANSWERS)[0]) for request in requests] == [[30], [32]]


async def test_a_request_may_wait_at_two_steps_which_share_nothing() -> None:
    both = Plan(
        "fraud",
        (
            Node("fraud"),
            Node("a", (START,), batch=Batch(size=2)),
            Node("b", (START,), batch=Batch(size=3)),
            Node("fraud", (Edge(1, Side.OUTPUTS), Edge(2, Side.OUTPUTS, renames=(("x", "y"),)))),
        ),
        output=True,
    )
    bench = Bench(both, a=adding(10), b=adding(100))
    requests = [bench.request() for _ in range(3)]
    bench.execution.begin(requests, columns(1, 2, 3))
    await bench.execution.drain()
    assert [numbers(record(request, ANSWERS)[0]) for request in requests] == [[11, 101], [12, 102], [13, 103]]


async def test_an_answer_does_not_wait_for_a_batch_beside_it() -> None:
    beside = Plan(
        "fraud", (*ASIDE.nodes[:2], replace(ASIDE.nodes[2], batch=Batch(size=2)), ASIDE.nodes[3]), output=True
    )
    bench = Bench(beside, a=adding(10), b=adding(100))
    request = bench.request()
    bench.execution.begin([request], columns(1))
    await asyncio.wait_for(bench.news.wait(), 5)
    assert ([early for early, _ in bench.early], bench.finished) == ([request], [])
    await bench.execution.drain()
    assert bench.finished == [request]


async def test_a_step_that_is_refused_another_visit_is_told_like_one_that_failed() -> None:
    ring = Plan(
        "fraud",
        (
            Node("fraud"),
            Node("a", (START, Edge(1, Side.OUTPUTS, back=True)), Join.ANY, cycle=1),
            Node("fraud", (Edge(1, Side.OUTPUTS, ("never",)),)),
        ),
        output=True,
        max_visits=2,
    )
    bench = Bench(ring, a=adding(10))
    request = await bench.run(bench.request())
    assert topics(request) == [*["seldon.ns.model.a.inputs", "seldon.ns.model.a.outputs"] * 2, ERRORS, ANSWERS]
    value, headers = record(request, ERRORS)
    assert value == b'step "a" was visited 2 times, the most that maxStepRevisits allows'
    assert headers[-3:-1] == [("seldon-pipeline-errors", b"a"), ("seldon-error-code", b"FAILED_PRECONDITION")]


JOINING = Plan(
    "fraud",
    (
        Node("fraud"),
        Node("a", (START,)),
        Node("b", (START, Edge(1, Side.OUTPUTS, ("x",), (("x", "y"),)))),
        Node("fraud", (Edge(2, Side.OUTPUTS),)),
    ),
    output=True,
)


@pytest.mark.parametrize("refusal", [InvalidInput, ModelFailed])
async def test_a_join_that_its_model_does_not_take_names_the_step_the_sources_and_what_they_gave(
    refusal: type[RequestError],
) -> None:
    bench = Bench(JOINING, a=adding(1), b=failing(refusal("x and y must be FP32 [2]")))
    request = await bench.run(bench.request())
    value, headers = record(request, ERRORS)
    assert dict(headers)["seldon-pipeline-errors"] == b"b"
    assert value.decode() == (
        "x and y must be FP32 [2]; it joins fraud.inputs, a.outputs x as y and was given x INT64 [1], y INT64 [1]"
    )


def giving_two(*names: str) -> FakeRuntime:
    specs = tuple(TensorSpec(name, "INT64", (1,)) for name in names)
    return giving(Part([0], Columns([b""], specs, (np.array([[1]], "<i8"), np.array([[2]], "<i8")))))


@pytest.mark.parametrize("tensors", [(), ("x", "y")])
async def test_two_tensors_of_one_name_are_the_pipelines_failure_and_no_call(tensors: tuple[str, ...]) -> None:
    renaming = Edge(1, Side.OUTPUTS, tensors, (("x", "y"),))
    plan = Plan("fraud", (Node("fraud"), Node("a", (START,)), Node("b", (renaming,))), output=False)
    bench = Bench(plan, a=giving_two("x", "y"), b=failing(AssertionError("it was called")))
    value, headers = record(await bench.run(bench.request()), ERRORS)
    assert value == b'two of its tensors are named "y"; give them different names by tensorMap'
    assert (dict(headers)["seldon-pipeline-errors"], dict(headers)["seldon-error-code"]) == (b"b", b"INTERNAL")


async def test_tensors_that_a_join_gets_under_one_name_are_told_with_their_sources() -> None:
    join = Node("b", (START, Edge(1, Side.OUTPUTS)))
    bench = Bench(
        Plan("fraud", (Node("fraud"), Node("a", (START,)), join), output=False),
        a=adding(1),
        b=failing(AssertionError()),
    )
    value, _ = record(await bench.run(bench.request()), ERRORS)
    assert value.startswith(
        b'two of its tensors are named "x"; give them different names by tensorMap; it joins fraud.in'
    )


@pytest.mark.parametrize(("given", "tensors"), [(("x", "y"), ()), (("y", "x"), ("y", "x"))])
async def test_an_output_that_takes_the_name_of_another_is_the_pipelines_failure(
    given: tuple[str, ...], tensors: tuple[str, ...]
) -> None:
    renaming = Node("fraud", (Edge(1, Side.OUTPUTS, tensors, (("x", "y"),)),))
    bench = Bench(Plan("fraud", (Node("fraud"), Node("a", (START,)), renaming), output=True), a=giving_two(*given))
    request = await bench.run(bench.request())
    for topic in (ERRORS, ANSWERS):
        value, headers = record(request, topic)
        assert value == b'two of its outputs are named "y"; give them different names by tensorMap'
        assert dict(headers)["seldon-pipeline-errors"] == b"fraud"
        assert dict(headers)["seldon-error-code"] == b"INTERNAL"


async def test_outputs_of_one_name_that_no_tensor_map_gave_are_all_answered() -> None:
    both = Node("fraud", (Edge(1, Side.OUTPUTS), Edge(2, Side.OUTPUTS)))
    forked = (Node("fraud"), Node("a", (START,)), Node("b", (START,)), both)
    bench = Bench(Plan("fraud", forked, output=True), a=adding(1), b=adding(2))
    value, _ = record(await bench.run(bench.request()), ANSWERS)
    assert [output.name for output in ModelInferResponse.FromString(value).outputs] == ["x", "x"]


async def test_a_model_of_one_source_speaks_for_itself() -> None:
    bench = Bench(CHAIN, a=adding(1), b=failing(InvalidInput("x must be FP32")))
    value, _ = record(await bench.run(bench.request()), ERRORS)
    assert value == b"x must be FP32"


async def test_requests_and_calls_are_counted_by_step() -> None:
    bench = Bench(CHAIN, a=adding(10), b=adding(100))
    first, second = bench.request(), bench.request(offset=1)
    bench.execution.begin([first, second], columns(1, 2))
    assert bench.flow.in_flight == 2
    await bench.execution.drain()
    assert (bench.flow.taken, bench.flow.in_flight) == (2, 0)
    assert {
        name: (step.seconds.count, step.sizes.count, step.sizes.sum) for name, step in bench.flow.steps.items()
    } == {
        "a": (2, 1, 2),
        "b": (2, 1, 2),
    }
    assert {key: found.count for key, found in bench.flow.models.items()} == {
        ("a", "kafka", "OK"): 2,
        ("b", "kafka", "OK"): 2,
    }
    assert (bench.flow.errors, bench.flow.unanswered) == ({}, {})


async def test_failures_are_counted_by_the_step_and_how_the_request_ended() -> None:
    bench = Bench(CHAIN, a=adding(1), b=failing(ModelFailed("it broke")))
    await bench.run(bench.request())
    assert bench.flow.errors == {("b", "INTERNAL"): 1}
    assert bench.flow.unanswered == {"INTERNAL": 1}
    assert bench.flow.models["b", "kafka", "INTERNAL"].count == 1
    assert bench.flow.in_flight == 0


async def test_a_failure_aside_of_the_answer_is_no_request_without_one() -> None:
    bench = Bench(ASIDE, a=adding(1), b=failing(ModelFailed("it broke")))
    await bench.run(bench.request())
    assert bench.flow.errors == {("b", "INTERNAL"): 1}
    assert bench.flow.unanswered == {}


async def test_a_request_that_cannot_begin_is_counted_as_the_pipelines_failure() -> None:
    bench = Bench(CHAIN, a=adding(1), b=adding(1))
    bench.execution.refuse(bench.request(), InvalidInput("no V2 request"))
    assert bench.flow.errors == {("fraud", "INVALID_ARGUMENT"): 1}
    assert (bench.flow.taken, bench.flow.in_flight) == (1, 0)


async def test_requests_that_are_given_up_are_in_flight_no_more() -> None:
    async def infer(_columns: Columns, _headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        await asyncio.Event().wait()
        yield Part(range(0), ModelFailed("never"))

    bench = Bench(CHAIN, a=FakeRuntime(infer), b=adding(1))
    bench.execution.begin([bench.request()], columns(1))
    bench.execution.cancel()
    assert (bench.flow.taken, bench.flow.in_flight) == (1, 0)


async def test_requests_that_are_made_as_one_are_counted_as_one_call() -> None:
    batched = replace(CHAIN, nodes=(CHAIN.nodes[0], replace(CHAIN.nodes[1], batch=Batch(size=2)), *CHAIN.nodes[2:]))
    bench = Bench(batched, a=adding(1), b=adding(1))
    for offset in (0, 1):
        bench.execution.begin([bench.request(offset=offset)], columns(1))
    await bench.until_finished(2)
    step = bench.flow.steps["a"]
    assert (step.seconds.count, step.sizes.count, step.sizes.sum) == (2, 1, 2)


def recording() -> tuple[InMemorySpanExporter, Spans]:
    """What keeps spans, and what makes them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, Spans(provider.get_tracer("test"))


async def test_a_traced_request_has_a_span_for_each_step_and_its_records_are_under_it() -> None:
    exporter, spans = recording()
    bench = Bench(CHAIN, flow=Flow(spans=spans), a=adding(1), b=failing(ModelFailed("it broke")))
    request = await bench.run(bench.request())
    assert request.trip is not None
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert {name: span.status.is_ok for name, span in found.items()} == {
        "run fraud": False,
        "step a": True,
        "step b": False,
    }
    run = request.trip.span.get_span_context()
    _, headers = record(request, "seldon.ns.model.a.inputs")
    assert (dict(headers)["traceparent"] or b"").startswith(f"00-{run.trace_id:032x}-{run.span_id:016x}-".encode())
    assert dict(found["run fraud"].attributes or {}) == {
        "pipeline": "fraud",
        "version": 3,
        "partition": 2,
        "offset": 0,
        "x-request-id": "made-here",
    }


async def test_a_call_of_several_traced_requests_has_a_span_with_links_to_them() -> None:
    exporter, spans = recording()
    batched = replace(NO_OUTPUT, nodes=(NO_OUTPUT.nodes[0], replace(NO_OUTPUT.nodes[1], batch=Batch(size=2))))
    bench = Bench(batched, flow=Flow(spans=spans), a=adding(1))
    requests = [bench.request(offset=offset) for offset in (0, 1)]
    for request in requests:
        bench.execution.begin([request], columns(1))
    await bench.until_finished(2)
    [call] = [span for span in exporter.get_finished_spans() if span.name == "call a"]
    assert [link.context for link in call.links] == [
        request.trip.span.get_span_context() for request in requests if request.trip
    ]


async def test_whoever_answers_a_traced_step_is_told_of_its_span() -> None:
    given: list[dict[str, bytes | None]] = []

    async def infer(columns: Columns, headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        given.extend(dict(each) for each in headers)
        yield Part(range(len(columns)), columns)

    exporter, spans = recording()
    bench = Bench(CHAIN, flow=Flow(spans=spans), a=FakeRuntime(infer), b=adding(1))
    await bench.run(bench.request())
    [step] = [span for span in exporter.get_finished_spans() if span.name == "step a"]
    assert step.context is not None
    assert f"-{step.context.span_id:016x}-".encode() in (given[0]["traceparent"] or b"")


async def test_a_request_that_nobody_traces_keeps_its_context_as_it_came() -> None:
    bench = Bench(CHAIN, a=adding(1), b=adding(1))
    request = await bench.run(bench.request(("traceparent", b"00-1-2-01")))
    assert request.trip is None
    assert dict(request.headers)["traceparent"] == b"00-1-2-01"
