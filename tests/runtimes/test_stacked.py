"""Requests stacked for a runtime that makes a call of each: here one that notes how it was called."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput, RequestError, Unreachable
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes.contract import Part
from engine.runtimes.stacked import StackedRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.protocol.record import HeaderPairs

SECONDS = 30.0


class Doubling:
    """Doubles what is `x`, echoes the rest; refuses negative numbers, and answers zeros with too few rows."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], list[HeaderPairs]]] = []
        self.unloaded, self.away = False, False

    async def load(self) -> None:
        pass

    async def unload(self) -> None:
        self.unloaded = True

    async def ready(self) -> bool:
        return not self.unloaded

    async def metadata(self) -> Any:
        return "its metadata"

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        assert 0 < timeout <= SECONDS
        for row in range(len(columns)):
            self.calls.append((columns.specs[0].shape, [headers[row]]))
            await asyncio.sleep(0)
            yield Part([row], self._answer(columns.take([row])), [(("x-row", b"%d" % row),)])

    def _answer(self, columns: Columns) -> Columns | RequestError:
        cells = columns.cells[0]
        if self.away:
            return Unreachable("away")
        if isinstance(cells, list):
            return columns
        if (cells < 0).any():
            return InvalidInput("negative")
        if not cells.any():
            return Columns(columns.ids, (TensorSpec("y", "FP32", (1,)),), (np.zeros((1, 1), np.float32),))
        specs = (columns.specs[0]._replace(name="y"), *columns.specs[1:])
        return Columns(columns.ids, specs, (cells * 2, *columns.cells[1:]), columns.parameters)


def numbers(*rows: Any, parameters: bytes = b"") -> Columns:
    array = np.array(rows, dtype=np.float32)
    ids = [b"\x1a\x01%d" % row for row in range(len(rows))]
    return Columns(ids, (TensorSpec("x", "FP32", array.shape[1:], parameters),), (array,))


def stacked(inner: Doubling, *, max_rows: int = 8) -> StackedRuntime:
    return StackedRuntime("m", inner, calls_at_once=2, max_rows=max_rows, delay=0.0)


async def ask(runtime: StackedRuntime, asked: Columns, name: str = "a") -> list[Any]:
    """What each row is answered: a list of numbers, or an error; with the ids that were asked."""
    headers = [(("x-who", b"%s%d" % (name.encode(), row)),) for row in range(len(asked))]
    found: dict[int, Any] = {}
    async for part in runtime.infer(asked, headers, SECONDS):
        for place, row in enumerate(part.rows):
            assert row not in found
            if isinstance(part.outcome, RequestError):
                found[row] = str(part.outcome)
            else:
                assert part.outcome.ids[place] == asked.ids[row]
                found[row] = part.outcome.array(0, place).tolist()
    assert sorted(found) == list(range(len(asked)))
    return [found[row] for row in range(len(asked))]


async def test_rows_of_one_call_and_of_many_go_together_with_the_headers_of_the_last() -> None:
    inner = Doubling()
    runtime = stacked(inner)
    found = await asyncio.gather(ask(runtime, numbers([1], [2]), "a"), ask(runtime, numbers([3]), "b"))
    assert found == [[[2], [4]], [[6]]]
    assert inner.calls == [((3,), [(("x-who", b"b0"),)])]


async def test_requests_of_different_lengths_get_their_own_rows() -> None:
    inner = Doubling()
    found = await asyncio.gather(
        *(ask(runtime, asked) for runtime in [stacked(inner)] for asked in (numbers([1, 2, 3]), numbers([4], [5])))
    )
    assert found == [[[2, 4, 6]], [[8], [10]]]
    assert [shape for shape, _ in inner.calls] == [(5,)]


async def test_texts_get_their_own_elements() -> None:
    inner = Doubling()
    runtime = stacked(inner)
    spec = TensorSpec("x", "BYTES", (1,))
    asked = [Columns([b""], (spec,), ([tensors.join_bytes([text])],)) for text in (b"one", b"", b"three")]
    assert await asyncio.gather(*(ask(runtime, each) for each in asked)) == [[[b"one"]], [[b""]], [[b"three"]]]
    assert [shape for shape, _ in inner.calls] == [(3,)]


async def test_one_bad_request_fails_alone_and_each_is_called_with_its_own_headers() -> None:
    inner = Doubling()
    assert await ask(stacked(inner), numbers([1], [-1], [3])) == [[2], "negative", [6]]
    assert inner.calls[1:] == [((1,), [(("x-who", b"a%d" % row),)]) for row in range(3)]


async def test_an_answer_that_cannot_be_shared_out_is_asked_for_one_by_one() -> None:
    inner = Doubling()
    assert await ask(stacked(inner), numbers([0], [0])) == [[0], [0]]
    assert [shape for shape, _ in inner.calls] == [(2,), (1,), (1,)]


async def test_a_server_that_is_away_is_not_asked_for_each_row_again() -> None:
    inner = Doubling()
    inner.away = True
    assert await ask(stacked(inner), numbers([1], [2])) == ["away", "away"]
    assert len(inner.calls) == 1


async def test_what_cannot_be_stacked_is_called_as_it_is() -> None:
    inner = Doubling()
    assert await ask(stacked(inner), numbers(1, 2)) == [2, 4]
    assert [shape for shape, _ in inner.calls] == [(), ()]


async def test_requests_whose_parameters_differ_are_not_stacked() -> None:
    inner = Doubling()
    runtime = stacked(inner)
    await asyncio.gather(ask(runtime, numbers([1])), ask(runtime, numbers([2], parameters=b"\x22\x00")))
    assert [shape for shape, _ in inner.calls] == [(1,), (1,)]


async def test_headers_of_a_stacks_answer_go_to_each_of_its_requests() -> None:
    runtime = stacked(Doubling())
    parts = [part async for part in runtime.infer(numbers([1], [2]), [(), ()], SECONDS)]
    assert [part.headers for part in parts] == [[(("x-row", b"0"),)] * 2]


async def test_everything_else_is_the_other_runtimes() -> None:
    inner = Doubling()
    runtime = stacked(inner)
    await runtime.load()
    assert await runtime.metadata() == "its metadata"
    assert await runtime.ready()
    await runtime.unload()
    assert inner.unloaded


async def test_answers_are_those_of_the_runtime_alone_whatever_is_stacked() -> None:
    chance = np.random.default_rng(3)
    asked = [numbers(*chance.integers(1, 9, (chance.integers(1, 4), chance.integers(1, 4)))) for _ in range(12)]
    runtime = stacked(Doubling(), max_rows=5)
    answers = await asyncio.gather(*(ask(runtime, each) for each in asked))
    assert answers == [(each.cells[0] * 2).tolist() for each in asked]
