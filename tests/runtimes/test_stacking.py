"""Calls of many callers stacked into few."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput, RequestError, TimedOut
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes.function import Function
from engine.runtimes.inprocess import InProcessRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from engine.runtimes.function import Array, Arrays

FOREVER = 30.0


class Model:
    """Doubles; says in which shapes it was called, and refuses negative numbers."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        self.shapes.append(arrays["x"].shape)
        if (arrays["x"] < 0).any():
            raise InvalidInput("negative")
        return [("y", arrays["x"] * 2)]


class Gate(Model):
    """Computes only once it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        self.begun.set()
        assert self.opened.wait(FOREVER)
        return super().__call__(arrays)


async def loaded(
    call: Callable[[Arrays], Any], *, max_rows: int = 64, delay: float = 0.0, threads: int = 1
) -> InProcessRuntime:
    runtime = InProcessRuntime(
        "m", lambda: Function(call, None, "test"), max_rows=max_rows, delay=delay, threads=threads
    )
    await runtime.load()
    return runtime


@pytest.fixture
async def gate() -> AsyncIterator[tuple[Gate, InProcessRuntime]]:
    """A model that computes only once it is opened, with one thread, and its runtime."""
    model = Gate()
    runtime = await loaded(model)
    yield model, runtime
    model.opened.set()
    await runtime.unload()


def rows(*values: Any) -> Columns:
    array = np.array(values, dtype=np.float32)
    return Columns([b"%d" % row for row in range(len(values))], (TensorSpec("x", "FP32", array.shape[1:]),), (array,))


async def ask(runtime: InProcessRuntime, asked: Columns, timeout: float = FOREVER) -> list[Any]:
    """What each row is answered: a list of numbers, or an error."""
    found: dict[int, Any] = {}
    async for part in runtime.infer(asked, [()] * len(asked), timeout):
        for place, row in enumerate(part.rows):
            assert row not in found
            if isinstance(part.outcome, RequestError):
                found[row] = part.outcome
            else:
                assert part.outcome.ids[place] == asked.ids[row]
                found[row] = part.outcome.array(0, place).tolist()
    assert sorted(found) == list(range(len(asked)))
    return [found[row] for row in range(len(asked))]


async def test_callers_who_come_together_share_a_call() -> None:
    model = Model()
    runtime = await loaded(model)
    answers = await asyncio.gather(*(ask(runtime, rows([[number]])) for number in range(10)))
    await runtime.unload()
    assert answers == [[[[2 * number]]] for number in range(10)]
    assert model.shapes == [(10, 1)]


async def test_who_comes_while_the_model_computes_is_in_the_next_call(gate: tuple[Gate, InProcessRuntime]) -> None:
    model, runtime = gate
    first = asyncio.create_task(ask(runtime, rows([1])))
    await asyncio.to_thread(model.begun.wait, FOREVER)
    others = [asyncio.create_task(ask(runtime, rows([number]))) for number in (2, 3)]
    await asyncio.sleep(0)
    model.opened.set()
    assert await asyncio.gather(first, *others) == [[[2]], [[4]], [[6]]]
    assert model.shapes == [(1,), (2,)]


async def test_a_delay_lets_callers_who_come_one_by_one_share_a_call() -> None:
    model = Model()
    runtime = await loaded(model, max_rows=2, delay=FOREVER)
    first = asyncio.create_task(ask(runtime, rows([1])))
    await asyncio.sleep(0.01)
    assert model.shapes == []
    answers = await asyncio.gather(first, ask(runtime, rows([2])))
    await runtime.unload()
    assert answers == [[[2]], [[4]]]
    assert model.shapes == [(2,)]


async def test_a_delay_that_is_over_lets_a_lone_caller_go() -> None:
    runtime = await loaded(Model(), delay=0.01)
    assert await ask(runtime, rows([1])) == [[2]]
    await runtime.unload()


async def test_requests_of_different_lengths_share_a_call() -> None:
    model = Model()
    runtime = await loaded(model)
    answers = await asyncio.gather(
        ask(runtime, rows([[1], [2]])), ask(runtime, rows([[3]], [[4]])), ask(runtime, rows([[5], [6], [7]]))
    )
    await runtime.unload()
    assert answers == [[[[2], [4]]], [[[6]], [[8]]], [[[10], [12], [14]]]]
    assert model.shapes == [(7, 1)]


async def test_what_does_not_go_together_is_called_apart() -> None:
    model = Model()
    runtime = await loaded(model)
    answers = await asyncio.gather(ask(runtime, rows([[1]])), ask(runtime, rows([[1, 2]])), ask(runtime, rows(3)))
    await runtime.unload()
    assert answers == [[[[2]]], [[[2, 4]]], [6]]
    assert sorted(model.shapes) == [(), (1, 1), (1, 2)]


async def test_one_callers_bad_request_fails_alone() -> None:
    runtime = await loaded(Model())
    good, bad, other = await asyncio.gather(*(ask(runtime, rows([number])) for number in (1, -1, 3)))
    await runtime.unload()
    assert (good, other) == ([[2]], [[6]])
    assert isinstance(bad[0], InvalidInput)


async def test_a_caller_who_leaves_is_not_computed(gate: tuple[Gate, InProcessRuntime]) -> None:
    model, runtime = gate
    first = asyncio.create_task(ask(runtime, rows([1])))
    await asyncio.to_thread(model.begun.wait, FOREVER)
    leaves, stays = (asyncio.create_task(ask(runtime, rows([number]))) for number in (2, 3))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    model.opened.set()
    assert await asyncio.gather(first, stays) == [[[2]], [[6]]]
    assert model.shapes == [(1,), (1,)]


async def test_who_waits_too_long_is_told_and_leaves_the_line(gate: tuple[Gate, InProcessRuntime]) -> None:
    model, runtime = gate
    first = asyncio.create_task(ask(runtime, rows([1])))
    await asyncio.to_thread(model.begun.wait, FOREVER)
    [late] = await ask(runtime, rows([2]), timeout=0.02)
    assert isinstance(late, TimedOut)
    model.opened.set()
    assert await first == [[2]]
    assert await ask(runtime, rows([3])) == [[6]]
    assert model.shapes == [(1,), (1,)]


async def test_who_waits_when_a_model_is_unloaded_is_told(gate: tuple[Gate, InProcessRuntime]) -> None:
    model, runtime = gate
    first = asyncio.create_task(ask(runtime, rows([1])))
    await asyncio.to_thread(model.begun.wait, FOREVER)
    waits = asyncio.create_task(ask(runtime, rows([2])))
    await asyncio.sleep(0)
    unloading = asyncio.create_task(runtime.unload())
    [refused] = await waits
    assert str(refused) == 'model "m" was unloaded before its turn came'
    model.opened.set()
    assert await first == [[2]]
    await unloading


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(st.lists(st.integers(-1, 5), min_size=1, max_size=6), min_size=1, max_size=8),
    max_rows=st.integers(1, 8),
    threads=st.integers(1, 3),
)
def test_answers_are_those_of_single_calls(calls: list[list[int]], max_rows: int, threads: int) -> None:
    async def both() -> tuple[list[Any], list[Any]]:
        stacked = await loaded(Model(), max_rows=max_rows, threads=threads)
        single = InProcessRuntime("m", lambda: Function(Model(), None, "test"), max_rows=None, threads=2)
        await single.load()
        asked = [rows(*([number] for number in call)) for call in calls]
        found = [await asyncio.gather(*(ask(runtime, each) for each in asked)) for runtime in (stacked, single)]
        await asyncio.gather(stacked.unload(), single.unload())
        return found[0], found[1]

    together, alone = asyncio.run(both())
    assert [[shown(each) for each in call] for call in together] == [[shown(each) for each in call] for call in alone]


def shown(answer: Any) -> Any:
    return str(answer) if isinstance(answer, RequestError) else answer
