from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dataflow.batches import Batches, Shared
from engine.dataflow.gather import Call, Progress
from engine.errors import ModelFailed
from engine.protocol import columns as col
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.dataflow.batches import Ready

STEP, WINDOW = 1, 10.0


def call(*requests: str, rows: int = 1, name: str = "x", datatype: str = "INT64", rest: tuple[int, ...] = ()) -> Call:
    """A call for requests with these ids, of so many rows each."""
    return made(requests, (TensorSpec(name, datatype, (rows, *rest)),))


def made(ids: tuple[str, ...], specs: tuple[TensorSpec, ...], parameters: bytes = b"") -> Call:
    cells = tuple(np.zeros((len(ids), *spec.shape), tensors.DATATYPES[spec.datatype].dtype) for spec in specs)
    columns = Columns([text.encode() for text in ids], specs, cells, parameters)
    return Call(STEP, [Progress() for _ in ids], columns)


def ids(ready: Ready) -> list[str]:
    calls = ready.calls if isinstance(ready, Shared) else (ready,)
    return [text.decode() for call in calls for text in call.columns.ids]


def offer(batches: Batches, *calls: Call, now: float = 0.0) -> list[list[str]]:
    """The ids of each call that comes of these."""
    return [ids(ready) for call in calls for ready in batches.offer(call, now)]


def flush(batches: Batches) -> list[list[str]]:
    return [ids(ready) for ready in batches.flush()]


def shared(*calls: Call) -> Shared:
    """What calls come to that are flushed together."""
    batches = Batches(None, WINDOW)
    for each in calls:
        assert batches.offer(each, 0.0) == []
    [ready] = batches.flush()
    assert isinstance(ready, Shared)
    return ready


def test_calls_wait_until_their_rows_reach_the_size() -> None:
    batches = Batches(4, WINDOW)
    assert offer(batches, call("a"), call("b", rows=2)) == []
    assert offer(batches, call("c")) == [["a", "b", "c"]]


def test_requests_that_come_together_are_shared_out_by_the_size() -> None:
    batches = Batches(4, WINDOW)
    assert offer(batches, call("a", "b", "c", "d", "e", rows=2)) == [["a", "b"], ["c", "d"]]
    assert flush(batches) == [["e"]]


def test_a_request_that_would_go_over_the_size_flushes_what_waits() -> None:
    batches = Batches(4, WINDOW)
    assert offer(batches, call("a", rows=3), call("b", rows=2)) == [["a"]]
    assert flush(batches) == [["b"]]


@pytest.mark.parametrize("rows", [4, 5])
def test_a_request_that_fills_a_call_by_itself_waits_for_nobody_and_goes_after_those_that_wait(rows: int) -> None:
    batches = Batches(4, WINDOW)
    assert offer(batches, call("a"), call("b", rows=rows)) == [["a"], ["b"]]
    assert batches.due is None


def test_without_a_size_calls_wait_for_their_window_alone() -> None:
    batches = Batches(None, WINDOW)
    assert offer(batches, *(call(str(number), rows=1000) for number in range(100))) == []
    assert [len(ready) for ready in flush(batches)] == [100]


def test_a_request_that_is_alone_in_the_end_is_called_as_it_was_offered() -> None:
    batches, lone = Batches(4, WINDOW), call("a")
    batches.offer(lone, 0.0)
    assert batches.flush() == [lone]


OTHERS = {
    "name": call("b", name="y"),
    "datatype": call("b", datatype="INT32"),
    "later dimensions": call("b", rest=(1,)),
    "parameters of a tensor": made(("b",), (TensorSpec("x", "INT64", (1,), b"p"),)),
    "parameters": made(("b",), (TensorSpec("x", "INT64", (1,)),), b"p"),
    "number of tensors": made(("b",), (TensorSpec("x", "INT64", (1,)), TensorSpec("y", "INT64", (1,)))),
}


@pytest.mark.parametrize("other", OTHERS)
def test_calls_that_differ_in_more_than_their_rows_wait_apart(other: str) -> None:
    batches = Batches(2, WINDOW)
    assert offer(batches, call("a"), OTHERS[other]) == []
    assert flush(batches) == [["a"], ["b"]]


UNCOUNTED = {
    "no dimension": made(("a",), (TensorSpec("x", "INT64", ()),)),
    "first dimensions that differ": made(("a",), (TensorSpec("x", "INT64", (1,)), TensorSpec("y", "INT64", (2,)))),
    "a tensor without dimensions": made(("a",), (TensorSpec("x", "INT64", (1,)), TensorSpec("y", "INT64", ()))),
    "no rows": call("a", rows=0),
    "no tensors": made(("a",), ()),
}


@pytest.mark.parametrize("uncounted", UNCOUNTED)
def test_a_request_whose_rows_cannot_be_counted_does_not_wait(uncounted: str) -> None:
    batches = Batches(4, WINDOW)
    assert batches.offer(UNCOUNTED[uncounted], 0.0) == [UNCOUNTED[uncounted]]
    assert batches.due is None


def test_a_batch_is_due_a_window_after_its_first_call() -> None:
    batches = Batches(4, WINDOW)
    assert batches.due is None
    offer(batches, call("a"), now=1.0)
    offer(batches, call("b"), now=5.0)
    assert batches.due == 1.0 + WINDOW
    assert batches.expire(10.9) == []
    assert [ids(ready) for ready in batches.expire(11.0)] == [["a", "b"]]
    assert batches.due is None


def test_a_batch_that_begins_when_another_was_full_has_a_window_of_its_own() -> None:
    batches = Batches(2, WINDOW)
    offer(batches, call("a"), now=1.0)
    offer(batches, call("b"), call("c"), now=5.0)
    assert batches.due == 5.0 + WINDOW


def test_the_batch_that_waits_longest_is_due_first() -> None:
    batches = Batches(4, WINDOW)
    offer(batches, call("a"), now=1.0)
    offer(batches, call("b", name="y"), now=2.0)
    assert [ids(ready) for ready in batches.expire(1.0 + WINDOW)] == [["a"]]
    assert batches.due == 2.0 + WINDOW


def test_a_shared_call_has_the_rows_of_all_and_the_id_of_the_last() -> None:
    first, second = call("a", "b"), call("c", rows=2)
    first.columns.cells[0][:] = [[1], [2]]
    second.columns.cells[0][:] = [[3, 4]]
    columns = shared(first, second).columns
    assert (columns.ids, columns.specs) == ([b"c"], (TensorSpec("x", "INT64", (4,)),))
    assert columns.array(0, 0).tolist() == [1, 2, 3, 4]


def test_requests_with_equally_many_rows_get_their_answers_together() -> None:
    assert len(shared(call("a"), call("b"), call("c")).calls) == 1


def test_requests_keep_their_rounds_in_a_shared_call() -> None:
    found = shared(call("a"), replace(call("b"), round=3))
    assert [(each.round, each.columns.ids) for each in found.calls] == [(0, [b"a"]), (3, [b"b"])]


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_an_answer_without_a_row_for_each_row_is_refused(shape: tuple[int, ...]) -> None:
    specs = TensorSpec("good", "INT64", (3,)), TensorSpec("y", "INT64", shape)
    answer = Columns([b""], specs, tuple(np.zeros((1, *spec.shape)) for spec in specs))
    with pytest.raises(ModelFailed) as caught:
        shared(call("a"), call("b", rows=2)).split(answer)
    assert caught.value.text == (
        f'output "y" has shape {list(shape)}: in a batch of 2 requests with 3 rows each must get its own rows'
    )


class Offer(NamedTuple):
    """Requests of one shape, and how the clock goes on before they come."""

    wait: float
    requests: int
    rows: int
    specs: tuple[tuple[str, tuple[int, ...]], ...]


TENSORS = st.lists(
    st.tuples(st.sampled_from(["INT32", "FP64", "BF16", "BYTES"]), st.sampled_from([(), (1,), (2, 2), (0,)])),
    min_size=1,
    max_size=2,
)


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    kinds = st.sampled_from([tuple(kind) for kind in draw(st.lists(TENSORS, min_size=1, max_size=2))])
    one = st.builds(Offer, st.sampled_from([0.0, 1.0, WINDOW]), st.integers(1, 4), st.integers(0, 5), kinds)
    return draw(st.lists(one, min_size=1, max_size=8))


def columns_of(offered: Offer, numbers: Iterator[int]) -> Columns:
    """Requests whose elements are all different, so that no row can pass for another."""
    specs, cells = [], []
    for place, (datatype, rest) in enumerate(offered.specs):
        kind, shape = tensors.DATATYPES[datatype], (offered.rows, *rest)
        values = [[next(numbers) for _ in range(math.prod(shape))] for _ in range(offered.requests)]
        specs.append(TensorSpec(f"t{place}", datatype, shape))
        if kind.dtype is None:
            cells.append([tensors.join_bytes(str(value).encode() for value in row) for row in values])
        else:
            cells.append(np.array(values, kind.dtype).reshape(offered.requests, *shape))
    row_ids = [b"%d" % next(numbers) for _ in range(offered.requests)]
    return Columns(row_ids, tuple(specs), tuple(cells), b"")


def row_wise(columns: Columns) -> Columns:
    """A model that answers each row by itself: all tensors turned around within a row, and each row as text."""
    return col.concatenate([_row_wise(columns.take([row])) for row in range(len(columns))])


def _row_wise(one: Columns) -> Columns:
    specs: list[TensorSpec] = []
    cells: list[Any] = []
    for index, spec in enumerate(one.specs):
        array, rows = one.array(index, 0), spec.shape[0]
        turned = array.reshape(rows, -1)[:, ::-1].reshape(spec.shape) if array.size else array
        texts = np.array([str(row) for row in array], object)
        for name, datatype, values in ((spec.name, spec.datatype, turned), (f"{spec.name}-text", "BYTES", texts)):
            raw = tensors.raw_of(values, tensors.DATATYPES[datatype])
            dtype = tensors.DATATYPES[datatype].dtype
            specs.append(TensorSpec(name, datatype, values.shape))
            cells.append([raw] if dtype is None else np.frombuffer(raw, dtype).reshape(1, *values.shape))
    return Columns(one.ids, tuple(specs), tuple(cells))


@given(offers(), st.none() | st.integers(1, 8))
def test_every_request_gets_what_it_would_have_got_alone(given_offers: list[Offer], size: int | None) -> None:
    batches, numbers, now = Batches(size, WINDOW), count(), 0.0
    arrived: dict[int, tuple[Offer, bytes]] = {}
    ready: list[Ready] = []
    for offered in given_offers:
        now += offered.wait
        ready += batches.expire(now)
        asked = Call(STEP, [Progress() for _ in range(offered.requests)], columns_of(offered, numbers))
        for request, alone in zip(asked.requests, col.encode(row_wise(asked.columns), col.RESPONSE), strict=True):
            arrived[id(request)] = offered, alone
        ready += batches.offer(asked, now)
        assert batches.due is None or batches.due > now
    ready += batches.flush()

    got: list[tuple[int, bytes]] = []
    for one in ready:
        calls, answers = (one.calls, one.split(row_wise(one.columns))) if isinstance(one, Shared) else ((one,), None)
        for place, made_call in enumerate(calls):
            answer = row_wise(made_call.columns) if answers is None else answers[place]
            values = col.encode(answer, col.RESPONSE)
            got += [(id(request), value) for request, value in zip(made_call.requests, values, strict=True)]
        if isinstance(one, Shared):
            assert sum(len(made_call.requests) for made_call in calls) > 1
            assert size is None or one.columns.specs[0].shape[0] <= size
    assert sorted(request for request, _ in got) == sorted(arrived), "each is in one call"
    assert all(arrived[request][1] == value for request, value in got)
    came, went = defaultdict(list), defaultdict(list)
    for order, found in ((came, list(arrived)), (went, [request for request, _ in got])):
        for request in found:
            if arrived[request][0].rows:
                order[arrived[request][0].specs].append(request)
    assert came == went, "those that may share a call keep their order"
