from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine.kafka.view import View
from engine.resources import Pipeline, documents, parse
from engine.ui.graphs import Graphs, draw

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n"


def drawn(spec: str) -> dict[str, Any]:
    pipeline, problems = parse(documents(HEAD + spec, "p.yaml")[0][0])
    assert isinstance(pipeline, Pipeline), problems
    return draw(pipeline)


def put(view: View, kind: str, name: str, spec: dict[str, Any], offset: int = 0) -> None:
    head = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": kind, "metadata": {"name": name}}
    envelope = {"resource": {**head, "spec": spec}, "version": 1, "folder": ""}
    view.resource_record(f"{kind.lower()}.{name}".encode(), orjson.dumps(envelope), offset)


def test_nodes_are_the_inputs_the_steps_and_the_outputs_by_name() -> None:
    graph = drawn("  steps: [{name: a}, {name: b, inputs: [a]}]\n  output: {steps: [b]}\n")
    assert [(node["id"], node["kind"], node["model"]) for node in graph["nodes"]] == [
        ("p.inputs", "input", None),
        ("a", "step", "a"),
        ("b", "step", "b"),
        ("p.outputs", "output", None),
    ]
    assert [(edge["from"], edge["to"]) for edge in graph["edges"]] == [
        ("p.inputs", "a"),
        ("a", "b"),
        ("b", "p.outputs"),
    ]


def test_edges_say_what_is_taken_of_which_side_and_how_it_is_renamed() -> None:
    graph = drawn("  steps: [{name: a}, {name: b, inputs: [a.inputs.x], tensorMap: {a.inputs.x: y}}]\n")
    (edge,) = [each for each in graph["edges"] if each["to"] == "b"]
    assert (edge["kind"], edge["side"], edge["tensors"], edge["renames"]) == ("data", "inputs", ["x"], {"x": "y"})


def test_a_step_with_several_sources_says_how_it_joins_them_and_for_how_long() -> None:
    spec = "  steps: [{name: a}, {name: b}, {name: c, inputs: [a, b], inputsJoinType: outer, joinWindowMs: 500}]\n"
    nodes = {node["id"]: node for node in drawn(spec)["nodes"]}
    assert (nodes["c"]["join"], nodes["c"]["window"]) == ("outer", 0.5)
    assert (nodes["a"]["join"], nodes["a"]["window"]) == (None, None)


def test_a_trigger_is_an_edge_of_its_own_kind() -> None:
    graph = drawn("  steps: [{name: a}, {name: b, inputs: [p.inputs], triggers: [a.outputs.t]}]\n")
    assert [(edge["from"], edge["kind"]) for edge in graph["edges"] if edge["to"] == "b"] == [
        ("p.inputs", "data"),
        ("a", "trigger"),
    ]


def test_what_feeds_a_pipeline_stands_before_its_inputs() -> None:
    graph = drawn("  input: {externalInputs: [other.outputs, third.step.s.outputs]}\n  steps: [{name: a}]\n")
    externals = [node for node in graph["nodes"] if node["kind"] == "external"]
    assert [(node["id"], node["pipeline"]) for node in externals] == [
        ("other.outputs", "other"),
        ("third.step.s.outputs", "third"),
    ]
    assert [edge["from"] for edge in graph["edges"] if edge["to"] == "p.inputs"] == [node["id"] for node in externals]
    assert next(node for node in graph["nodes"] if node["id"] == "p.inputs")["join"] == "inner"


def test_a_batch_is_told_and_a_cycle_marked() -> None:
    assert not drawn("  steps: [{name: a}]\n")["cyclic"]
    nodes = drawn("  steps: [{name: a, batch: {size: 4, windowMs: 50}}]\n")["nodes"]
    assert nodes[1]["batch"] == {"size": 4, "window_ms": 50}
    cyclic = drawn(
        "  allowCycles: true\n  maxStepRevisits: 3\n"
        "  steps: [{name: a, inputs: [p.inputs, b.outputs], inputsJoinType: any}, {name: b, inputs: [a]}]\n"
    )
    assert cyclic["cyclic"]
    assert [(edge["from"], edge["to"]) for edge in cyclic["edges"] if edge["back"]] == [("b", "a")]


@pytest.fixture
def view() -> View:
    view = View()
    put(view, "Model", "a", {"storageUri": "python:a:b"})
    put(view, "Pipeline", "p", {"steps": [{"name": "a"}], "output": {"steps": ["a"]}})
    put(view, "Experiment", "e", {"default": "a", "candidates": [{"name": "a", "weight": 3}]})
    return view


async def test_everything_that_is_loaded_is_in_the_document_with_its_state(view: View) -> None:
    document = await Graphs(view).document(0.0)
    assert [(each["name"], each["version"]) for each in document["pipelines"]] == [("p", 1)]
    (experiment,) = document["experiments"]
    assert (experiment["kind"], experiment["default"], experiment["mirror"]) == ("model", "a", None)
    assert experiment["candidates"] == [{"name": "a", "weight": 3}]
    assert document["models"][0]["reason"] == "no worker has taken it up"


async def test_the_state_changes_with_what_is_loaded_and_the_drawing_with_it(view: View) -> None:
    graphs = Graphs(view)
    before = graphs.state(0.0)
    assert graphs.state(0.0) == before
    assert len((await graphs.document(0.0))["pipelines"][0]["nodes"]) == 3
    put(view, "Pipeline", "p", {"steps": [{"name": "a"}]}, offset=7)
    assert graphs.state(0.0) != before
    assert len((await graphs.document(0.0))["pipelines"][0]["nodes"]) == 2
