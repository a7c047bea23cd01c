from __future__ import annotations

import numpy as np

from engine.dataflow.plan import Edge
from engine.dataflow.steps import absent, merge, select
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.record import Side


def columns(*names: str, ids: tuple[str, ...] = ("1", "2"), parameters: bytes = b"") -> Columns:
    """Each tensor's cells count its rows from its place."""
    specs = tuple(TensorSpec(name, "INT32", (1,)) for name in names)
    cells = tuple(np.array([[place], [place + 10]], "<i4") for place in range(len(names)))
    return Columns([text.encode() for text in ids], specs, cells, parameters)


def edge(*tensors: str, **renames: str) -> Edge:
    return Edge(0, Side.OUTPUTS, tensors, tuple(renames.items()))


def contents(found: Columns) -> list[tuple[str, list[int]]]:
    return [(name, cells[:, 0].tolist()) for name, cells in zip(found.names, found.cells, strict=True)]


def test_an_edge_that_wants_nothing_special_gives_the_source_itself() -> None:
    source = columns("x", "y")
    assert select(source, edge()) is source


def test_tensors_are_selected_in_the_order_of_the_references() -> None:
    found = select(columns("x", "y", "z"), edge("z", "x"))
    assert found is not None
    assert contents(found) == [("z", [2, 12]), ("x", [0, 10])]


def test_tensors_are_renamed_and_keep_their_contents() -> None:
    found = select(columns("x", "y"), edge(y="v"))
    assert found is not None
    assert contents(found) == [("x", [0, 10]), ("v", [1, 11])]


def test_two_tensors_may_swap_their_names() -> None:
    found = select(columns("x", "y"), edge(x="y", y="x"))
    assert found is not None
    assert contents(found) == [("y", [0, 10]), ("x", [1, 11])]


def test_a_selected_tensor_is_renamed() -> None:
    found = select(columns("x", "y"), edge("y", y="v"))
    assert found is not None
    assert contents(found) == [("v", [1, 11])]


def test_a_rename_of_a_tensor_that_is_not_there_changes_nothing() -> None:
    found = select(columns("x"), edge(q="v"))
    assert found is not None
    assert found.names == ("x",)


def test_nothing_is_selected_when_one_tensor_is_absent() -> None:
    assert select(columns("x"), edge("x", "y")) is None


def test_the_absent_tensors_are_named() -> None:
    assert absent(columns("x"), edge("x", "y", "z")) == ("y", "z")


def test_ids_and_parameters_survive_a_selection() -> None:
    found = select(columns("x", "y", parameters=b"p"), edge("y"))
    assert found is not None
    assert (found.ids, found.parameters) == ([b"1", b"2"], b"p")


def test_one_part_is_merged_as_it_is() -> None:
    part = columns("x")
    assert merge([part]) is part


def test_merged_parts_stand_side_by_side_and_equal_names_stay() -> None:
    assert contents(merge([columns("x", "y"), columns("x")])) == [("x", [0, 10]), ("y", [1, 11]), ("x", [0, 10])]


def test_a_merge_keeps_ids_and_parameters_of_the_first() -> None:
    found = merge([columns("x", parameters=b"first"), columns("y", ids=("7", "8"), parameters=b"second")])
    assert (found.ids, found.parameters) == ([b"1", b"2"], b"first")
