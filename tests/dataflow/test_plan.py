from __future__ import annotations

import pytest

from engine.dataflow.plan import Edge, Node, Plan, as_data, as_mermaid, as_text, single_model
from engine.protocol.record import Side
from engine.resources import Batch, Join

PLAN = Plan(
    "fraud",
    (
        Node("fraud"),
        Node("features", (Edge(0, Side.INPUTS, (), (("amount", "x"),)),)),
        Node("left", (Edge(1, Side.OUTPUTS, ("l", "m"), (("m", "n"),)),)),
        Node("right", (Edge(1, Side.INPUTS, ("r",)), Edge(0, Side.INPUTS)), Join.OUTER),
        Node("fraud", (Edge(2, Side.OUTPUTS), Edge(3, Side.OUTPUTS)), Join.ANY),
    ),
    output=True,
)

TEXT = """\
pipeline fraud
  features
    <- fraud.inputs amount as x
  left
    <- features.outputs l, m as n
  right (outer)
    <- features.inputs r
    <- fraud.inputs
  output (any)
    <- left.outputs
    <- right.outputs
"""

MERMAID = """\
flowchart LR
  n0(["fraud.inputs"])
  n1["features"]
  n2["left"]
  n3["right"]
  n4(["fraud.outputs"])
  n0 -->|"amount as x"| n1
  n1 -->|"l, m as n"| n2
  n1 -->|"inputs r"| n3
  n0 --> n3
  n2 --> n4
  n3 --> n4
"""

DATA = {
    "pipeline": "fraud",
    "nodes": [
        {"name": "fraud", "kind": "entry", "join": "inner", "sources": []},
        {
            "name": "features",
            "kind": "step",
            "join": "inner",
            "sources": [{"from": "fraud.inputs", "tensors": [], "renames": {"amount": "x"}}],
        },
        {
            "name": "left",
            "kind": "step",
            "join": "inner",
            "sources": [{"from": "features.outputs", "tensors": ["l", "m"], "renames": {"m": "n"}}],
        },
        {
            "name": "right",
            "kind": "step",
            "join": "outer",
            "sources": [
                {"from": "features.inputs", "tensors": ["r"], "renames": {}},
                {"from": "fraud.inputs", "tensors": [], "renames": {}},
            ],
        },
        {
            "name": "fraud",
            "kind": "output",
            "join": "any",
            "sources": [
                {"from": "left.outputs", "tensors": [], "renames": {}},
                {"from": "right.outputs", "tensors": [], "renames": {}},
            ],
        },
    ],
}


def test_a_plan_is_told_as_text() -> None:
    assert as_text(PLAN) == TEXT


def test_a_plan_is_drawn_by_mermaid() -> None:
    assert as_mermaid(PLAN) == MERMAID


def test_a_plan_is_plain_data() -> None:
    assert as_data(PLAN) == DATA


CYCLE = Plan(
    "p",
    (
        Node("p"),
        Node("a", (Edge(0, Side.INPUTS), Edge(2, Side.OUTPUTS, ("x",), back=True)), Join.ANY, cycle=1),
        Node("b", (Edge(1, Side.OUTPUTS),), batch=Batch(8, 50), cycle=1),
    ),
    output=False,
)


def test_back_edges_and_batches_are_told_as_text() -> None:
    assert as_text(CYCLE) == (
        "pipeline p\n"
        "  a (any)\n    <- p.inputs\n    <- b.outputs x (next round)\n"
        "  b (batch of 8 rows within 50 ms)\n    <- a.outputs\n"
    )


def test_back_edges_and_batches_are_drawn_by_mermaid() -> None:
    drawn = as_mermaid(CYCLE)
    assert '  n2 -->|"x (next round)"| n1\n' in drawn
    assert '  n2["b<br/>batch of 8 rows within 50 ms"]\n' in drawn


def test_back_edges_and_batches_are_plain_data() -> None:
    _, first, second = as_data(CYCLE)["nodes"]
    assert first["sources"][1] == {"from": "b.outputs", "tensors": ["x"], "renames": {}, "nextRound": True}
    assert second["batch"] == {"size": 8, "windowMs": 50}


@pytest.mark.parametrize(("batch", "told"), [(Batch(8), "batch of 8 rows"), (Batch(None, 50), "batch within 50 ms")])
def test_a_batch_may_lack_a_bound(batch: Batch, told: str) -> None:
    plan = Plan("p", (Node("p"), Node("a", (Edge(0, Side.INPUTS),), batch=batch)), output=False)
    assert f"  a ({told})\n" in as_text(plan)


def test_what_a_cycle_gives_to_the_output_is_before_the_output() -> None:
    nodes = (*CYCLE.nodes, Node("p", (Edge(1, Side.OUTPUTS),)))
    assert Plan("p", nodes, output=True).before_output == {0, 1, 2, 3}


def test_a_quote_in_a_tensors_name_does_not_end_its_label() -> None:
    plan = Plan("p", (Node("p"), Node("a", (Edge(0, Side.INPUTS, ('x"]',)),))), output=False)
    assert '-->|"x#quot;]"|' in as_mermaid(plan)


def test_a_plan_without_an_output_ends_with_its_steps() -> None:
    plan = Plan("p", (Node("p"), Node("a", (Edge(0, Side.INPUTS),))), output=False)
    assert (list(plan.steps), plan.output_index, plan.before_output) == ([1], None, frozenset())


def test_what_the_output_depends_on_is_known() -> None:
    nodes = (*PLAN.nodes[:4], Node("aside", (Edge(1, Side.OUTPUTS),)), Node("fraud", (Edge(2, Side.OUTPUTS),)))
    assert Plan("fraud", nodes, output=True).before_output == {0, 1, 2, 5}


def test_the_readers_of_each_side_are_known() -> None:
    assert PLAN.readers[1, Side.OUTPUTS] == ((2, 0),)
    assert PLAN.readers[0, Side.INPUTS] == ((1, 0), (3, 1))


def test_a_lone_model_takes_everything_and_gives_everything() -> None:
    assert as_text(single_model("iris")) == (
        "pipeline iris\n  iris\n    <- iris.inputs\n  output\n    <- iris.outputs\n"
    )
