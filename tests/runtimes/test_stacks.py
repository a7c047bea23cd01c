from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.columns import Columns, TensorSpec, layout
from engine.runtimes.stacks import Stacks

if TYPE_CHECKING:
    from engine.protocol.columns import Layout

LAYOUTS: list[Layout] = [((("x", "FP32", (4,), b""),), b""), ((("x", "FP32", (), b""),), b"")]

# When a call comes, of which layout, with how many rows, each of how many rows of a stack.
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(LAYOUTS), st.integers(1, 9), st.integers(1, 5)), max_size=12
)


def columns(*shapes: tuple[int, ...], datatype: str = "FP32") -> Columns:
    specs = tuple(TensorSpec(f"x{index}", datatype, shape) for index, shape in enumerate(shapes))
    return Columns([b""], specs, tuple(np.zeros((1, *shape), np.float32) for shape in shapes))


def test_columns_that_agree_but_in_their_first_dimension_have_one_layout() -> None:
    assert layout(columns((1, 4), (1,))) == layout(columns((3, 4), (3,)))


@pytest.mark.parametrize("other", [columns((1, 5), (1,)), columns((1, 4)), columns((1, 4), (1,), datatype="FP64")])
def test_columns_that_differ_otherwise_have_different_layouts(other: Columns) -> None:
    assert layout(columns((1, 4), (1,))) != layout(other)


@pytest.mark.parametrize("shapes", [[(2,), (1,)], [()], [(0, 3)], []])
def test_what_does_not_agree_in_a_first_dimension_cannot_be_stacked(shapes: list[tuple[int, ...]]) -> None:
    assert layout(columns(*shapes)) is None


def test_nothing_is_due_when_nothing_waits() -> None:
    stacks = Stacks[str](4, 0.0)
    assert (stacks.due, stacks.take(1.0)) == (None, None)


def test_without_a_delay_what_waits_goes_at_once() -> None:
    stacks = Stacks[str](4, 0.0)
    stacks.offer("a", range(1), 1, LAYOUTS[0], 5.0)
    assert stacks.due == 5.0
    assert stacks.take(5.0) == [("a", range(1))]


def test_a_stack_that_is_not_full_waits_for_its_oldest_request() -> None:
    stacks = Stacks[str](4, 2.0)
    stacks.offer("a", range(1), 1, LAYOUTS[0], 5.0)
    stacks.offer("b", range(1), 1, LAYOUTS[0], 6.0)
    assert stacks.take(6.9) is None
    assert stacks.due == 7.0
    assert stacks.take(7.0) == [("a", range(1)), ("b", range(1))]


def test_a_full_stack_waits_for_nobody() -> None:
    stacks = Stacks[str](4, 2.0)
    stacks.offer("a", range(3), 1, LAYOUTS[0], 5.0)
    stacks.offer("b", range(3), 1, LAYOUTS[0], 5.5)
    assert stacks.take(5.5) == [("a", range(3)), ("b", range(1))]
    assert stacks.take(5.5) is None
    assert stacks.take(7.5) == [("b", range(1, 3))]


def test_a_request_that_alone_is_over_the_limit_is_a_stack() -> None:
    stacks = Stacks[str](4, 0.0)
    stacks.offer("a", range(2), 5, LAYOUTS[0], 0.0)
    assert [stacks.take(0.0), stacks.take(0.0), stacks.take(0.0)] == [[("a", range(1))], [("a", range(1, 2))], None]


def test_what_is_dropped_is_not_taken() -> None:
    stacks = Stacks[str](4, 0.0)
    for call in "aba":
        stacks.offer(call, range(1), 1, LAYOUTS[0], 0.0)
    stacks.drop("a")
    assert [stacks.take(0.0), stacks.due] == [[("b", range(1))], None]


@given(arrivals=ARRIVALS, max_rows=st.integers(1, 8), delay=st.integers(0, 5))
def test_each_row_is_taken_once_in_time_and_in_its_order(
    arrivals: list[tuple[int, Layout, int, int]], max_rows: int, delay: int
) -> None:
    stacks = Stacks[int](max_rows, float(delay))
    came = sorted(enumerate(arrivals), key=lambda pair: pair[1][0])
    taken: list[tuple[int, int]] = []
    for now in range(30):
        for call, (at, kind, count, each) in came:
            if at == now:
                stacks.offer(call, range(count), each, kind, float(now))
        while (stack := stacks.take(float(now))) is not None:
            lengths = [len(rows) * arrivals[call][3] for call, rows in stack]
            assert len({arrivals[call][1] for call, _ in stack}) == 1
            assert sum(lengths) <= max_rows or (len(stack) == 1 and len(stack[0][1]) == 1)
            taken += [(call, row) for call, rows in stack for row in rows]
            assert all(now <= arrivals[call][0] + delay for call, _ in stack)
        assert stacks.due is None or stacks.due > now
    assert sorted(taken) == [(call, row) for call, (_, _, count, _) in enumerate(arrivals) for row in range(count)]
    for kind in LAYOUTS:
        own = [(call, row) for call, row in taken if arrivals[call][1] == kind]
        assert own == [(call, row) for call, (_, layout_, count, _) in came for row in range(count) if layout_ == kind]
