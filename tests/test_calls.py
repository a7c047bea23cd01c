"""Calls of steps with a batch, made with fake runtimes: models that are functions of this file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.calls import Calls
from engine.dataflow.gather import Call, Progress
from engine.dataflow.plan import ENTRY, Edge, Node, Plan
from engine.errors import InvalidInput, ModelFailed, RequestError, TimedOut, Unreachable
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.record import Side
from engine.resources import Batch
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from engine.protocol.record import HeaderPairs

STEP = 1
NEVER = 3600.0


class Asked(Progress):
    """A request as far as calls know it."""

    __slots__ = ("headers", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.headers: HeaderPairs = (("x-request-id", name.encode()),)


def call(datatype: str = "INT64", **rows: list[int]) -> Call:
    """A call for named requests with these numbers, as many for each."""
    numbers = np.array(list(rows.values()), tensors.DATATYPES[datatype].dtype)
    columns = Columns([b""] * len(rows), (TensorSpec("x", datatype, numbers.shape[1:]),), (numbers,))
    return Call(STEP, [Asked(name) for name in rows], columns)


def texts(**rows: list[bytes]) -> Call:
    """The same with texts."""
    spec = TensorSpec("x", "BYTES", (len(next(iter(rows.values()))),))
    raws = [tensors.join_bytes(row) for row in rows.values()]
    return Call(STEP, [Asked(name) for name in rows], Columns([b""] * len(rows), (spec,), (raws,)))


class FakeModel:
    """Marked as such: computes with a function of this file, and remembers what it was given."""

    def __init__(self, answer: Callable[[Columns], Columns | RequestError]) -> None:
        self._answer = answer
        self.given: list[list[int] | list[bytes]] = []
        self.headers: list[HeaderPairs] = []
        self.added: tuple[tuple[str, bytes], ...] = ()

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        assert timeout == 5.0
        self.headers += headers
        for row in range(len(columns)):
            self.given.append(columns.array(0, row).tolist())
            yield Part([row], self._answer(columns.take([row])), [self.added])


def doubling(columns: Columns) -> Columns:
    [cells] = columns.cells
    doubled = [raw + raw for raw in cells] if isinstance(cells, list) else cells * 2
    return Columns(columns.ids, columns.specs, (doubled,))


def refusing_zero(error: RequestError) -> Callable[[Columns], Columns | RequestError]:
    """Refuses calls that hold a zero."""
    return lambda columns: doubling(columns) if columns.array(0, 0).all() else error


def summing(columns: Columns) -> Columns:
    """All rows become one."""
    return Columns(columns.ids, (TensorSpec("sum", "INT64", (1,)),), (columns.cells[0].sum(axis=1, keepdims=True),))


def too_short(columns: Columns) -> Columns:
    """Says that it has more than it has."""
    return Columns(columns.ids, columns.specs, (np.zeros((1, 0)),))


class Bench:
    """The calls of a step with a batch, and what came of them by the names of the requests."""

    def __init__(
        self,
        batch: Batch,
        answer: Callable[[Columns], Columns | RequestError] = doubling,
        *,
        batch_max_wait: float = NEVER,
    ) -> None:
        plan = Plan("p", (Node("p"), Node("a", (Edge(ENTRY, Side.INPUTS),), batch=batch)), output=False)
        self.model = FakeModel(answer)
        self.answers: dict[str, list[int] | list[bytes] | str] = {}
        self.headers: dict[str, object] = {}
        self.news = asyncio.Event()
        self.calls = Calls(
            plan,
            lambda _: self.model,  # type: ignore[arg-type, return-value]
            self._take,
            timeout=5.0,
            batch_max_wait=batch_max_wait,
        )

    def _take(self, call: Call, part: Part) -> None:
        for place, row in enumerate(part.rows):
            request = call.requests[row]
            assert isinstance(request, Asked)
            assert request.name not in self.answers
            error = isinstance(part.outcome, RequestError)
            self.answers[request.name] = part.outcome.text if error else part.outcome.array(0, place).tolist()
            self.headers[request.name] = part.headers[place] if part.headers else None
        self.news.set()

    async def run(self, *calls: Call) -> dict[str, list[int] | list[bytes] | str]:
        for each in calls:
            self.calls.start(each)
        assert not self.calls.idle
        await self.calls.drain()
        assert self.calls.idle
        return self.answers


async def test_callers_share_a_call_and_get_their_own_rows() -> None:
    bench = Bench(Batch(size=3))
    bench.calls.start(call(a=[1]))
    bench.calls.start(call(b=[2, 3]))
    await asyncio.wait_for(bench.news.wait(), 5)
    assert bench.model.given == [[1, 2, 3]]
    assert bench.answers == {"a": [2], "b": [4, 6]}


async def test_callers_get_their_own_texts() -> None:
    def turned(columns: Columns) -> Columns:
        [raws] = columns.cells
        reversed_ = [tensors.join_bytes(text[::-1] for text in tensors.split_bytes(raw)) for raw in raws]
        return Columns(columns.ids, columns.specs, (reversed_,))

    bench = Bench(Batch(size=3), turned)
    assert await bench.run(texts(a=[b"one"]), texts(b=[b"", b"two"])) == {"a": [b"eno"], "b": [b"", b"owt"]}
    assert bench.model.given == [[b"one", b"", b"two"]]


async def test_what_differs_in_its_datatype_waits_apart() -> None:
    bench = Bench(Batch(size=2))
    await bench.run(call(a=[1]), call("INT32", b=[2]), call(c=[3]), call("INT32", d=[4]))
    assert bench.model.given == [[1, 3], [2, 4]]


async def test_a_model_is_given_the_headers_of_the_last_request() -> None:
    bench = Bench(Batch(size=3))
    await bench.run(call(a=[1]), call(b=[2], c=[3]))
    assert bench.model.headers == [(("x-request-id", b"c"),)]


async def test_headers_that_a_model_adds_to_a_shared_answer_go_to_all() -> None:
    bench = Bench(Batch(size=3))
    bench.model.added = (("x-route", b"left"),)
    await bench.run(call(a=[1]), call(b=[2], c=[3]))
    assert bench.headers == dict.fromkeys("abc", (("x-route", b"left"),))


@pytest.mark.parametrize("error", [ModelFailed("broken"), InvalidInput("refused")], ids=["failed", "refused"])
async def test_one_bad_request_fails_alone(error: RequestError) -> None:
    bench = Bench(Batch(size=3), refusing_zero(error))
    answers = await bench.run(call(a=[1]), call(b=[0]), call(c=[3]))
    assert answers == {"a": [2], "b": error.text, "c": [6]}
    assert bench.model.given == [[1, 0, 3], [1], [0], [3]]


@pytest.mark.parametrize("error", [Unreachable("away"), TimedOut("late")], ids=["away", "late"])
async def test_a_server_that_does_not_answer_is_not_asked_again_for_each(error: RequestError) -> None:
    bench = Bench(Batch(size=3), refusing_zero(error))
    answers = await bench.run(call(a=[1]), call(b=[0]), call(c=[3]))
    assert answers == dict.fromkeys("abc", error.text)
    assert len(bench.model.given) == 1


@pytest.mark.parametrize(
    ("answer", "alone", "said"),
    [(summing, [3], 'output "sum" has shape [1]'), (too_short, [], "cannot reshape")],
    ids=["too few", "fewer than it says"],
)
async def test_an_answer_that_cannot_be_shared_out_is_asked_for_again_for_each(
    answer: Callable[[Columns], Columns], alone: list[int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(Batch(size=4), answer)
    assert (await bench.run(call(a=[1, 2]), call(b=[1, 2]))) == {"a": alone, "b": alone}
    [line] = caplog.messages
    assert line.startswith(f'step "a" is called for each request alone: {said}')


async def test_a_lone_request_is_called_when_its_window_has_passed() -> None:
    bench = Bench(Batch(size=3, window_ms=1))
    bench.calls.start(call(a=[1]))
    assert not bench.calls.idle
    await asyncio.wait_for(bench.news.wait(), 5)
    assert bench.answers == {"a": [2]}


async def test_without_a_window_a_batch_waits_as_long_as_any_may() -> None:
    bench = Bench(Batch(size=3), batch_max_wait=0.001)
    bench.calls.start(call(a=[1]))
    await asyncio.wait_for(bench.news.wait(), 5)
    assert bench.answers == {"a": [2]}


async def test_a_batch_that_follows_a_full_one_has_its_own_window() -> None:
    bench = Bench(Batch(size=2, window_ms=1))
    for name in "abc":
        bench.calls.start(call(**{name: [1]}))
    while len(bench.answers) < 3:
        bench.news.clear()
        await asyncio.wait_for(bench.news.wait(), 5)
    assert bench.model.given == [[1, 1], [1]]


async def test_a_drain_lets_nothing_wait_that_comes_of_it() -> None:
    bench = Bench(Batch(size=3))
    take = bench._take

    def again(made: Call, part: Part) -> None:
        take(made, part)
        if "b" not in bench.answers:
            bench.calls.start(call(b=[2]))

    bench.calls._answered = again
    assert await asyncio.wait_for(bench.run(call(a=[1])), 5) == {"a": [2], "b": [4]}


async def test_calls_wait_again_after_a_drain() -> None:
    bench = Bench(Batch(size=2))
    await bench.run(call(a=[1]))
    await bench.run(call(b=[2]), call(c=[3]))
    assert bench.model.given == [[1], [2, 3]]


async def test_what_waits_is_given_up_by_a_cancel() -> None:
    bench = Bench(Batch(size=3, window_ms=1))
    bench.calls.start(call(a=[1]))
    bench.calls.cancel()
    assert bench.calls.idle
    await bench.calls.drain()
    assert bench.answers == {}
